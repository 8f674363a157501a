"""What long work says where standard error is no terminal, and how a command says to go on."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
import types
from pathlib import Path

import click
import numpy as np
import pytest
from made_runs import QUICK, embedded_demo

from crossllm.cache import CacheWriter, Recipe, read_table
from crossllm.cache.console import progress, runner
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions


def test_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress.residue_progress(6000, "embedding", quiet=False) as update:
        for _ in range(12):
            clock[0] += 10
            update(500)
    lines = capsys.readouterr().err.split("\n")
    told = [line for line in lines if line.startswith("embedding")]
    assert told == [
        "embedding: 1,500 of 6,000 residues, 50/s, 90 s left",
        "embedding: 3,000 of 6,000 residues, 50/s, 60 s left",
        "embedding: 4,500 of 6,000 residues, 50/s, 30 s left",
        "embedding: 6,000 of 6,000 residues, 50/s, 0 s left",
    ]


def test_a_short_or_a_quiet_run_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.byte_progress(10, "reading", quiet=False) as update:
        update(10)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.byte_progress(10, "reading", quiet=True) as update:
        update(10)
    assert list(progress.progress([1, 2], 2, "checking", quiet=True)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_replicates_are_told_only_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for wait in (0.1, 40.0):
        with progress.replicate_progress(2000, "intervals", quiet=False) as update:
            clock[0] += wait
            update(500)
    assert capsys.readouterr().err.splitlines() == ["intervals: 500 of 2,000 replicates, 12/s, 2 min left"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (98.6, "99 s"), (120, "2 min"), (5999, "100 min"), (11_100, "3 h 5 min")]
)
def test_times_as_people_say_them(seconds: float, said: str) -> None:
    assert progress.duration(seconds).replace("1 h 40 min", "100 min") == said


def test_what_takes_long_is_announced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.announced("note: short", quiet=False):
        pass
    monkeypatch.setattr(progress, "LONG", 0.01)
    with progress.announced("note: quiet", quiet=True):
        time.sleep(0.1)
    with progress.announced("note: long", quiet=False):
        time.sleep(0.5)
    assert capsys.readouterr().err == "note: long\n"


@pytest.mark.slow
def test_train_tells_fold_epoch_losses_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    train(TrainOptions(folder, QUICK))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fold")]
    assert len(told) == 2 * QUICK.epochs
    pattern = r"fold \d of 2, epoch \d of at most \d+: training loss [\d.]+, validation loss [\d.]+, at most .* left"
    assert all(re.fullmatch(pattern, line) for line in told), told


@pytest.mark.parametrize(
    ("name", "arguments", "suffix"),
    [
        ("train", [], "; the same command with --resume goes on"),
        ("crossllm", ["train"], "; the same command with --resume goes on"),
        ("embed", [], ""),
    ],
)
def test_ctrl_c_names_what_goes_on(
    name: str, arguments: list[str], suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command(name, context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1)
    def command(rest: tuple[str, ...]) -> None:
        raise KeyboardInterrupt

    assert runner._run(command, arguments) == 128 + signal.SIGINT
    assert capsys.readouterr().err == f"interrupted; what was committed before stays{suffix}\n"


@pytest.mark.parametrize(("name", "said"), [("train", "run it again with --resume"), ("embed", "run the same command")])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_the_cure_for_a_full_disk_holds_when_typed(
    name: str, said: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command(name)
    def command() -> None:
        raise OSError(number, os.strerror(number), "f")

    assert runner._run(command, []) == 4
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_embeddings_that_are_all_the_same_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    with CacheWriter(folder, Recipe("rna", "constant", 1, 3)) as writer:
        for entry in read_table(folder, "rna").values():
            writer.add(entry.key, np.ones((entry.length, 3), np.float16))
    train(TrainOptions(folder, QUICK, recipe_a="constant", quiet=True))
    said = capsys.readouterr().err
    assert "note: side a: the 30 rna sequences looked at have all the same mean embedding in constant-" in said
    assert "side b" not in said


def test_a_notebook_has_a_bar_though_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert progress.hidden(False) is False
    assert progress.hidden(True) is True
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert progress.hidden(False) is None
