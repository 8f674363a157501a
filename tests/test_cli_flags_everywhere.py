"""What every command and group has: -h and --version, and a path that stands alone is told its flag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from crossllm.cache.console import runner
from crossllm.embed.cli import embed
from crossllm.pipeline.cli import crossllm
from crossllm.pipeline.cli_train import train


def _paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _paths(found, (*path, name))


EVERY = [*_paths(crossllm)]


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help", "--version"])
def test_every_command_has_it(path: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, [*path, flag]) == 0
    said = capsys.readouterr().out
    assert said.startswith(" ".join(["crossllm", *path]) if flag == "--version" else "Usage: ")
    assert flag != "--help" or "-h, --help" in said


@pytest.mark.parametrize("program", [embed, train])
def test_the_other_programs_have_it(program: click.Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(program, ["-h"]) == 0
    assert runner._run(program, ["--version"]) == 0


ALONE = {
    "embed run cache/mine --modality rna --input x.fa --encoder profile": "write --cache cache/mine.",
    "embed run x.fa --modality rna --encoder profile": "write --input x.fa.",
    "data import cache/mine --a rna=x.fa --b protein=x.fa --pairs x.fa": "write --cache cache/mine.",
    "data demo cache/mine": "write --cache cache/mine.",
    "embed run x --modality rna --input x.fa --cache c --encoder profile": "Got unexpected extra argument (x)",
}


@pytest.mark.parametrize("words", ALONE)
def test_a_path_that_stands_alone_is_told_its_flag(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.fa").write_text(">x\nACGU\n")
    assert runner._run(crossllm, words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ALONE[words] in line


def test_train_takes_the_cache_as_an_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(train, [str(tmp_path)]) == 2
    assert f"{tmp_path}/dataset.toml: no dataset here" in capsys.readouterr().err
    assert runner._run(train, [str(tmp_path), "--cache", str(tmp_path)]) == 2
    assert "the cache is named twice" in capsys.readouterr().err
    assert runner._run(train, []) == 2
    assert "no cache is named" in capsys.readouterr().err
