"""`train --jobs N`: folds in processes of their own give the run that one process gives."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import Program
from forked_rows import ForkedRow, forked_fold
from zygote import Zygote

from crossllm.cache.errors import InputError
from crossllm.pipeline.experiments import row_processes
from crossllm.pipeline.experiments.fold_processes import fit_in_processes
from crossllm.pipeline.train import train
from crossllm.pipeline.training.config import resolve
from crossllm.pipeline.training.inputs import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]
TWO = partial(fit_in_processes, jobs=2)
TIMES = {"provenance.json", "usage.json"}
"""Differ from run to run."""


@pytest.fixture
def started(programs: Zygote, monkeypatch: pytest.MonkeyPatch) -> list[ForkedRow]:
    """Children of the zygote in the place of Pythons started anew."""
    found: list[ForkedRow] = []
    monkeypatch.setattr(row_processes, "start_child", forked_fold(programs, found))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return found


def of_jobs(options: TrainOptions, **change: object) -> TrainOptions:
    return dataclasses.replace(options, out=options.cache_dir.parent / "jobs", threads=1, **change)  # type: ignore[arg-type]


def files(run: Path) -> dict[str, bytes]:
    """Of a run, without what tells of its processes and its time."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in TIMES and path.relative_to(run).parts[0] not in ("folds", "tensorboard")
    }


def test_the_run_is_that_of_one_process(
    small: TrainOptions, started: list[ForkedRow], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit by bit, weights and baselines too, at one thread a fold; and nothing is fitted twice."""
    alone = train(dataclasses.replace(small, out=small.cache_dir.parent / "one"))
    capsys.readouterr()
    run = train(of_jobs(small), TWO)
    assert len(started) == 2
    assert run.metrics == alone.metrics
    assert files(run.folder) == files(alone.folder)
    said = capsys.readouterr().err
    assert "note: 2 of 2 folds, 2 at a time, 1 threads each" in said
    assert said.count(" of 2: ") == 2
    usage = json.loads((run.folder / "usage.json").read_text())
    each = [json.loads((run.folder / f"folds/fold-{n}/usage.json").read_text()) for n in (0, 1)]
    assert usage["rows_read"] == sum(one["rows_read"] for one in each) > 0
    more = train(of_jobs(small, resume=True, baselines="nearest"), TWO)
    assert len(started) == 4, "a baseline that is missing"
    assert more.metrics["model"] == run.metrics["model"]


def test_a_killed_fold_ends_the_others_and_is_gone_on_with(
    small: TrainOptions, started: list[ForkedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train(dataclasses.replace(small, out=small.cache_dir.parent / "one"))
    start = row_processes.start_child

    def killed(*arguments: str, **more: object) -> ForkedRow:
        child: ForkedRow = start(*arguments, **more)  # type: ignore[arg-type,assignment]
        if len(started) == 2:
            os.kill(child._child.pid, signal.SIGKILL)
        return child

    with monkeypatch.context() as patch:
        patch.setattr(row_processes, "start_child", killed)
        with pytest.raises(OSError, match="ended by signal 9; its output is in ") as caught:
            train(of_jobs(small), TWO)
    assert caught.value.filename == "fold 2 of 2"
    assert [child.poll() is not None for child in started] == [True, True]
    run = train(of_jobs(small, resume=True), TWO)
    assert files(run.folder) == files(alone.folder)


def test_a_fold_that_fails_says_why(small: TrainOptions, started: list[ForkedRow]) -> None:
    wild = dataclasses.replace(small.config, lr=1.0, warmup_steps=1, clip=1e9, epochs=60, patience=60)
    wild = dataclasses.replace(wild, weight_decay=1e3)
    with pytest.raises(InputError, match=r"^fold [12]: the (training|validation) loss became "):
        train(of_jobs(small, config=wild), TWO)
    assert started


def test_a_signal_reaches_the_folds(programs: Zygote, small: TrainOptions, tmp_path: Path, program: Program) -> None:
    """They save where they stand, and the same command with --resume goes on to the same numbers."""
    flags = ["--cache", str(small.cache_dir), "--folds", "2", "--epochs", "30", "--patience", "30", "--d-model", "8"]
    flags += ["--baselines", "none", "--quiet"]
    with (tmp_path / "err").open("wb") as err, open(os.devnull, "r+b") as nothing:
        child = programs.start("train", [*flags, "--jobs", "2", "--out", "run"], (nothing, nothing, err), cwd=tmp_path)
        for fold in ("fold-0", "fold-1"):
            events = tmp_path / "run" / "tensorboard" / fold
            while not any(path.stat().st_size > 500 for path in events.glob("*")):
                assert child.poll() is None, (tmp_path / "err").read_text()
                time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143
    lines = [line for line in (tmp_path / "err").read_text().splitlines() if not line.startswith("note: ")]
    assert lines == ["terminated; what was committed before stays; the same command with --resume goes on"]
    kept = {path.name.split(".")[0] for path in (tmp_path / "run" / "checkpoints").glob("*.partial-*.json")}
    assert kept == {"fold-0", "fold-1"}
    assert program("train", *flags, "--resume", "--out", "run").returncode == 0
    assert program("train", *flags, "--out", "one").returncode == 0
    for name in ("history.csv", "predictions.tsv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_jobs_do_not_multiply(small: TrainOptions, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row of an ablation can ask for processes of its own, nor can what torchrun starts."""
    with pytest.raises(InputError, match="jobs: is not a setting of train"):
        resolve(sets=["jobs=2"])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = program("train", small.cache_dir, "--jobs", "2")
    assert (done.returncode, done.stderr.count("error: --jobs: takes processes of its own")) == (2, 1)
    done = program("crossllm", "ablate", small.cache_dir, "--grid", "lr=0.1,0.2")
    assert (done.returncode, done.stderr.count("error: crossllm ablate: is one process")) == (2, 1)
