"""Every command and every line of Python in README.md and docs/guide is run as printed, page by page.

What needs published weights, a network or `make` says so in its info string (`docs_pages.INFO_STRINGS`); of that, the
flags and values are held to the real commands.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import ROOT
from docs_pages import INFO_STRINGS, PAGES, Block, Command, blocks_of, commands_of, parse
from docs_pages import click_command as program
from forked_rows import forked_child
from made_inputs import write_inputs
from zygote import Zygote

from crossllm.cache.console import runner
from crossllm.pipeline.experiments import row_processes
from crossllm.pipeline.training import config

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.fixture
def inputs(tmp_path: Path, programs: Zygote, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the pages name; runs are of 2 folds and 2 epochs unless told."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")  # `train` would set it for good
    monkeypatch.setattr(config, "TrainConfig", functools.partial(config.TrainConfig, folds=2, epochs=2))
    monkeypatch.setattr(row_processes, "start_child", forked_child(programs, ("folds=2", "epochs=2")))
    return tmp_path


@pytest.mark.slow
@each_page
def test_blocks_run_as_printed(
    page: Path, inputs: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if page != PAGES[0]:  # a run's figures are drawn on one page
        request.getfixturevalue("undrawn")
    namespace: dict[str, object] = {}
    blocks = blocks_of(page)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.info == "python":
            capsys.readouterr()
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
            if printed := capsys.readouterr().out:
                assert following is not None, f"{block.place}: prints {printed}"
                assert (following.info, following.text) == ("text", printed), f"{block.place}: what it prints"
        elif block.info == "sh":
            for command in commands_of(block):
                _run(command, capsys)
        elif block.info in ("sh weights", "sh s3"):
            for command in commands_of(block):
                _parsed(command)
        elif block.info == "sh make":
            _check_make(block)
        else:
            assert block.info == "text", f"{block.place}: '{block.info}' is none of {', '.join(INFO_STRINGS)}"


def _run(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """A program of ours in this process, which saves more than a second; what needs a shell, in one."""
    where = f"{command.place}: {command.text}"
    if command.in_process:
        name, *arguments = command.words
        capsys.readouterr()
        code = runner._run(program(name), arguments)
        said = capsys.readouterr().err
    else:
        _programs_exist(command)
        found = Path(sys.executable).parent
        done = subprocess.run(
            ["sh", "-ec", command.text], capture_output=True, text=True, timeout=100,
            env=os.environ | {"PATH": f"{found}{os.pathsep}{os.environ['PATH']}"},
        )  # fmt: skip
        code, said = done.returncode, done.stderr
    assert code == 0, f"{where}\n{said}"


def _programs_exist(command: Command) -> None:
    assert command.words[0] in ("embed", "train", "crossllm", "cat", "head", "ls"), f"{command.place}: {command.text}"


def _parsed(command: Command) -> None:
    try:
        parse(command.words).close()
    except (click.UsageError, KeyError) as error:
        pytest.fail(f"{command.place}: {command.text}\n{error}")


def _check_make(block: Block) -> None:
    for command in commands_of(block):
        for line in command.text.split("&&"):
            name, *words = line.split()
            if name == "make":
                for target in words:
                    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{command.place}: no target {target}"
            else:
                assert (name, len(words)) in ((".", 1), ("cd", 1), ("git", 3)), f"{command.place}: {line}"


@pytest.mark.parametrize(
    "text",
    [
        "embed walk --input rna.fasta",
        "embed run --modality rna --input rna.fasta --encoder-name profile",
        "embed run --modality dna --input rna.fasta",
        "embed run --input rna.fasta",
        "crossllm cache verify --cache cache/mine --data-subset half",
        "crossllm cache info --data",
        "train --cache cache/mine --resumed",
        "trian --cache cache/mine",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(text: str) -> None:
    with pytest.raises((click.UsageError, KeyError)):
        parse(text.split())
