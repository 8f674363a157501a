"""What `--help` shows: every command on one line, examples that hold, the same short forms; and the version."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import ROOT, Program
from docs_pages import PROGRAMS, click_command, parse

from crossllm.cache.console import runner, version
from crossllm.cache.console.once import Command, Group
from crossllm.pipeline.cli import crossllm

SHORT = {"--cache": "-c", "--input": "-i", "--out": "-o", "--output": "-o"}
"""Flag → its short form, in whatever command has it."""


def _all(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _all(found, f"{path} {name}")


EVERY = {path: command for name in PROGRAMS for path, command in _all(click_command(name), name)}
every_command = pytest.mark.parametrize("path", EVERY)


@every_command
def test_help_ends_in_examples_that_can_be_parsed(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = path.split()
    assert runner._run(click_command(program), [*words, "--help"]) == 0
    head, _, tail = capsys.readouterr().out.partition("\nExamples:\n")
    examples = [line.removeprefix("  ") for line in tail.splitlines()]
    assert head
    assert examples, f"{path}: no examples; give `examples=` to its decorator"
    assert any(line.split()[0] in PROGRAMS for line in examples)
    for line in examples:
        with parse(re.split(" >+ ", line)[0].split()) as context:  # UsageError of what does not exist
            assert EVERY[path] is context.command or isinstance(EVERY[path], click.Group), line


@every_command
def test_short_forms_are_the_same_everywhere(path: str) -> None:
    long = {short: [flag for flag in SHORT if SHORT[flag] == short] for short in SHORT.values()}
    for parameter in EVERY[path].params:
        for flag in parameter.opts:
            assert SHORT.get(flag, flag) in parameter.opts, f"{path} {flag} lacks {SHORT.get(flag)}"
            assert set(long.get(flag, [flag])) & set(parameter.opts), f"{path} {flag} is for {long.get(flag)} alone"


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_crossllm_lists_every_command_on_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, words) == 0
    said = capsys.readouterr()
    _, _, listed = said.out.partition("\nCommands:\n")
    rows = [line.split("  ", 2)[1:] for line in listed.partition("\n\n")[0].splitlines()]
    leaves = [path.removeprefix("crossllm ") for path, command in EVERY.items()
              if path.startswith("crossllm ") and not isinstance(command, click.Group)]  # fmt: skip
    assert [name for name, _ in rows] == leaves, "a help line that is too long for one line needs `short_help=`"
    assert all(text.strip().endswith(".") and not text.endswith("...") for _, text in rows)
    assert not said.err


@pytest.mark.parametrize("words", [[], ["cache"], ["data"], ["embed"]], ids=" ".join)
def test_a_group_without_a_command_lists_its_own(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, words) == 0
    alone = capsys.readouterr()
    assert runner._run(crossllm, [*words, "--help"]) == 0
    assert (alone.out, alone.err) == (capsys.readouterr().out, "")


def test_a_command_that_is_made_without_the_rules_is_noticed() -> None:
    """The walk sees what a command declares, so a new one cannot leave the rules out."""
    bad = Command("bad", params=[click.Option(["--cache"])])
    EVERY["bad"] = bad
    try:
        with pytest.raises(AssertionError, match="--cache lacks -c"):
            test_short_forms_are_the_same_everywhere("bad")
    finally:
        del EVERY["bad"]
    assert all(isinstance(command, Command | Group) for command in EVERY.values())


def test_an_unfinished_line_is_no_error_while_a_shell_completes_it() -> None:
    for words in (["run", "--modality", "rna", "--modality", "rna"], ["run", "x.fa"]):
        command = click_command("embed")
        with pytest.raises(click.UsageError):
            parse(["embed", *words])
        assert isinstance(command, click.Group)
        run = command.get_command(click.Context(command), "run")
        assert run is not None
        run.make_context("run", words[1:], resilient_parsing=True, help_option_names=["-h", "--help"]).close()


# -- --version


def _git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("1")
    assert version.commit(tmp_path) is None
    _git(tmp_path, "init", "-q")
    assert version.commit(tmp_path) is None  # nothing is committed
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-q", "-m", "one")
    _git(tmp_path, "tag", "-m", "tag", "v9")
    commit = _git(tmp_path, "rev-parse", "HEAD")[:12]
    assert version.commit(tmp_path) == commit
    (tmp_path / "inside").mkdir()
    assert version.commit(tmp_path / "inside") is None  # another project's checkout may lie above an installed one
    (tmp_path / "file").write_text("2")
    assert version.commit(tmp_path) == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path / "inside"))  # no git
    assert version.commit(tmp_path) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [(None, ""), ("0123456789ab", " (commit 0123456789ab)"), ("0123456789ab-dirty",
     " (commit 0123456789ab, changed since)")],
)  # fmt: skip
def test_the_version_in_words(found: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "commit", lambda: found)
    assert version.version_in_words() == f"0.1.0{said}"


def test_every_program_tells_its_commit(program: Program) -> None:
    commit = version.commit(ROOT)
    for name in PROGRAMS:
        done = program(name, "--version")
        assert done.stdout == f"{name} {version.version_in_words()}\n"
        assert commit is None or f"(commit {commit[:12]}" in done.stdout
