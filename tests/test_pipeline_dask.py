"""`crossllm ablate --dask`, `train --dask`: rows and folds as this machine trains them, on a cluster's workers."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from dask_workers import cluster, meanwhile, retire_the_busy, workers_of
from forked_rows import forked_child
from zygote import Zygote

from crossllm.cache.cluster.address import parse_cluster
from crossllm.cache.errors import InputError
from crossllm.pipeline.experiments import row_processes
from crossllm.pipeline.experiments.ablation import AblationOptions, ablate
from crossllm.pipeline.experiments.fold_processes import fit_in_processes
from crossllm.pipeline.experiments.seeds import train_seeds
from crossllm.pipeline.splits.split_file import split_text
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs

pytestmark = pytest.mark.slow

SETS = ("folds=2", "epochs=2", "d_model=8", "d_state=4", "tokens=pooled")


def numbers(folder: Path) -> list[Any]:
    """Settings and metrics of each row."""
    found = json.loads((folder / "ablation.json").read_text())
    return [[row[name] for name in ("settings", "metrics", "problem")] for row in found["rows"]]


def test_rows_on_workers_of_which_one_is_killed(
    programs: Zygote,
    small: TrainOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # paths as users write them
    cache = Path(os.path.relpath(small.cache_dir))
    plain = AblationOptions(cache, ("loss=bce,focal",), sets=SETS, out=Path("plain"), jobs=2)
    with monkeypatch.context() as patch:
        patch.setattr(row_processes, "start_child", forked_child(programs))
        ablate(plain)
    killed = threading.Event()

    def kill() -> None:
        while not list(tmp_path.glob("spread/logs/*")):
            time.sleep(0.05)
        while not killed.is_set():
            for worker in workers_of(os.getpid()):
                with suppress(psutil.Error):
                    if worker.children():  # a row at work
                        worker.kill()
                        killed.set()
                        break
            time.sleep(0.05)

    threading.Thread(target=kill, daemon=True).start()
    spread = dataclasses.replace(plain, out=Path("spread"), dask=parse_cluster("local:2"))
    assert ablate(spread).failed == 0
    assert killed.is_set()
    assert "a worker ended, loss=" in capsys.readouterr().err
    assert numbers(tmp_path / "spread") == numbers(tmp_path / "plain")
    assert not workers_of(os.getpid())


def test_a_row_goes_on_where_its_worker_is_retired(
    small: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its process saves, another worker goes on, and no worker counts against the row."""
    asked = AblationOptions(small.cache_dir, ("loss=bce",), sets=(*SETS, "epochs=40", "patience=40"))
    ablate(dataclasses.replace(asked, out=tmp_path / "plain"))
    retired: list[str] = []

    with cluster(1) as found, meanwhile(lambda over: retire_the_busy(found, over, retired, 4, 3, kill=False)):
        spread = dataclasses.replace(asked, out=tmp_path / "spread", dask=parse_cluster(found.scheduler_address))
        assert ablate(spread).failed == 0, capsys.readouterr().err
    assert len(retired) == 4
    assert numbers(tmp_path / "spread") == numbers(tmp_path / "plain")


def test_one_gpu_of_several_is_no_device_of_workers(small: TrainOptions) -> None:
    asked = AblationOptions(small.cache_dir, ("loss=bce,focal",), device="cuda:1", dask=parse_cluster("local:2"))
    with pytest.raises(InputError, match="each worker has a GPU of its own; write cuda"):
        ablate(asked)


def test_folds_on_workers(small: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = dataclasses.replace(small, cache_dir=Path(os.path.relpath(small.cache_dir)), threads=1)
    alone = train(dataclasses.replace(here, out=Path("one")))
    run = train(
        dataclasses.replace(here, out=Path("spread")), partial(fit_in_processes, jobs=1, dask=parse_cluster("local:2"))
    )
    assert run.metrics == alone.metrics
    for name in ("predictions.tsv", "history.csv", "metrics.json"):
        assert Path("spread", name).read_bytes() == Path("one", name).read_bytes()


@pytest.fixture
def cut(small: TrainOptions, tmp_path: Path) -> Path:
    """A file of another split than the settings make."""
    inputs = open_inputs(dataclasses.replace(small, config=dataclasses.replace(small.config, seed=7)))
    path = tmp_path / "cut.tsv"
    path.write_text(split_text(inputs.dataset, inputs.folds))
    return path


def test_a_split_file_and_seeds_on_workers(
    small: TrainOptions, cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(small.config, split="file")
    here = dataclasses.replace(small, config=config, split_file=Path("cut.tsv"), threads=1)
    train_seeds(dataclasses.replace(here, out=Path("one")), 2)
    spread = partial(fit_in_processes, jobs=1, dask=parse_cluster("local:2"))
    train_seeds(dataclasses.replace(here, out=Path("spread")), 2, spread)
    for name in ("metrics.json", "seed-0/predictions.tsv", "seed-1/predictions.tsv", "seed-1/splits.tsv"):
        assert Path("spread", name).read_bytes() == Path("one", name).read_bytes()


def test_an_ablation_with_a_split_file_on_workers(
    small: TrainOptions, cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = AblationOptions(
        small.cache_dir, ("loss=bce,focal",), sets=SETS[1:], split_file=Path("cut.tsv"), seeds=2, out=Path("one")
    )
    ablate(asked)
    ablate(dataclasses.replace(asked, out=Path("spread"), dask=parse_cluster("local:2")))
    assert numbers(tmp_path / "spread") == numbers(tmp_path / "one")
    for row in tmp_path.glob("one/rows/*/seed-0/splits.tsv"):
        assert row.read_bytes() == cut.read_bytes()
