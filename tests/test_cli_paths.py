"""What is no path of a cache: an address, a folder of code; in every command that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from crossllm.cache.cli_flags import CachePath
from crossllm.cache.cli_remote import AnyCachePath
from crossllm.cache.console import runner
from crossllm.pipeline.cli import crossllm

REQUIRED = {
    "embed run": ["--modality", "rna", "--encoder", "profile", "--input", "store.fasta"],
    "data import": ["--a", "rna=store.fasta", "--b", "rna=store.fasta", "--pairs", "pairs.tsv"],
    "cache import": ["--modality", "rna", "--input", "x.h5", "--fasta", "store.fasta"],
    "cache export": ["--modality", "rna", "--format", "npy", "--output", "out"],
    "cache merge": ["cache/other"],
}
"""Command → what it needs besides the path that is tried."""


def path_parameters() -> Iterator[tuple[str, str, click.Path]]:
    """Every command with each of its parameters that is a path, found in the commands themselves."""

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, str, click.Path]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                assert found is not None
                yield from walk(found, f"{name} {sub}".strip())
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                yield name, max(parameter.opts, key=len), parameter.type

    yield from walk(crossllm, "")


PATHS = sorted({(name, option) for name, option, _ in path_parameters()})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds code where a checkout has it, and a FASTA of that name."""
    (tmp_path / "cache" / "store").mkdir(parents=True)
    (tmp_path / "cache" / "store" / "__init__.py").touch()
    (tmp_path / "store.fasta").write_text(">s\nACGU\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tried(name: str, option: str, value: str) -> list[str]:
    """The command line with `value` for the option, in place of what is required there."""
    needed = list(REQUIRED.get(name, []))
    if option in needed:
        at = needed.index(option)
        del needed[at : at + 2]
    if name in ("train",) or name.startswith(("cache", "data")):
        needed += [] if option == "--cache" else ["--cache", "cache/x"]
    if not option.startswith("-"):
        return [*name.split(), *[n for n in needed if n != "cache/other"], value]
    if name == "embed pull":
        needed.append("esm2-8m")
    return [*name.split(), *needed, option, value]


def test_every_command_with_files_was_found() -> None:
    assert {name for name, _ in PATHS} >= {*REQUIRED, "train", "cache verify", "embed pull"}


TAKES_ADDRESSES = {(name, option) for name, option, kind in path_parameters() if isinstance(kind, AnyCachePath)}
"""Of caches in object stores: tests/test_cli_remote*.py."""


def test_which_commands_take_a_cache_on_this_machine_alone() -> None:
    """What a new command does with an address is to be decided, and said in docs/cluster.md."""
    folders = {(name, option) for name, option, kind in path_parameters() if isinstance(kind, CachePath)}
    assert {f"{name} {option}" for name, option in folders - TAKES_ADDRESSES} == {
        *(f"cache {name} {option}" for name in ("compact", "gc", "repair") for option in ("--cache", "folder")),
        "data negatives --cache",
        "data negatives --out",
        "doctor --cache",
    }


def test_an_address_in_their_place_gets_the_command_that_makes_it_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["cache", "gc"], ["cache", "repair"], ["cache", "compact"], ["doctor", "-c"],
                    ["data", "negatives", "-c", "x", "-o"], ["data", "negatives", "-o", "x", "-c"]):  # fmt: skip
        assert runner._run(crossllm, [*command, "s3://bucket/some/name"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "`crossllm cache merge -c cache/name s3://bucket/some/name` copies rows and ids here" in line


@pytest.mark.parametrize(("name", "option"), PATHS)
@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/x", "gs://b/c"])
def test_an_address_is_no_path(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, option: str, address: str
) -> None:
    if (name, option) in TAKES_ADDRESSES and not address.startswith("https"):
        address = f"{address.partition(':')[0]}://b"  # no name in the bucket
    before = sorted(folder.rglob("*"))
    assert runner._run(crossllm, tried(name, option, address)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{address}' is an address" in line or f"{address}: is not " in line
    assert sorted(folder.rglob("*")) == before, "nothing was made"


def test_a_side_of_a_dataset_is_no_address(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "import", "--a", "rna=s3://b/x", "--b", "rna=store.fasta", "--pairs", "p", "--cache", "cache/x"]
    assert runner._run(crossllm, command) == 2
    assert "'s3://b/x' is an address" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({name for name, option in PATHS if option == "--cache"}))
def test_a_folder_of_code_is_no_cache(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert runner._run(crossllm, tried(name, "--cache", "cache/store")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cache/store: holds Python code (__init__.py), no cache" in line


def test_the_default_cache_is_no_folder_of_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, ["embed", "run", *REQUIRED["embed run"]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cache/store: holds Python code" in line
    assert "name another by --cache" in line
