"""`embed run --dask` on a cluster whose workers come and go in good order: the same rows, and no sequence is blamed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dask_workers import cluster, meanwhile, retire_the_busy, workers_of
from fault_operations import contents, damage
from test_embed_dask import embedded, write_fasta

pytestmark = pytest.mark.slow


def test_an_adapted_cluster(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLOW", "0.03")
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 500)
    embedded(fasta, tmp_path / "plain")
    counts = set()

    with cluster(0) as found:
        found.adapt(minimum=0, maximum=3, interval="100ms", wait_count=2, target_duration="1s")

        def look(over: threading.Event) -> None:
            while not over.wait(0.05):
                counts.add(len(workers_of(os.getpid())))

        with meanwhile(look):
            done = embedded(fasta, tmp_path / "spread", found.scheduler_address)
    assert max(counts) > 1, "it never grew"
    assert (done.embedded, done.failed) == (500, 0)
    assert contents(tmp_path / "spread") == contents(tmp_path / "plain")
    assert "a worker ended" not in capfd.readouterr().err


def test_workers_are_retired_and_none_is_left_for_a_moment(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLOW", "0.03")
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 500)
    embedded(fasta, tmp_path / "plain")
    retired = []

    with cluster(2) as found:

        def retire(over: threading.Event) -> None:
            from distributed import Client

            with Client(found.scheduler_address, set_as_default=False) as client:
                for round_ in range(4):
                    while not over.is_set() and not (busy := [a for a, keys in client.processing().items() if keys]):
                        time.sleep(0.02)
                    if over.wait(0.7):
                        return
                    if round_ % 2:
                        found.scale(0)  # as a batch system ends them
                        retired.append("all")
                        over.wait(1)
                    else:
                        retired.extend(client.retire_workers(busy[:1], close_workers=True))
                    found.scale(2 + round_)

        with meanwhile(retire):
            done = embedded(fasta, tmp_path / "spread", found.scheduler_address)
    said = capfd.readouterr().err
    assert len(retired) == 4, said
    assert (done.embedded, done.failed) == (500, 0)
    assert contents(tmp_path / "spread") == contents(tmp_path / "plain")
    assert not damage(tmp_path / "spread")
    assert "a worker ended" not in said


def test_a_sequence_whose_workers_are_taken_away_is_not_blamed(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Four workers are retired, and ended before they have kept anything, as batch systems do it; the fifth one may."""
    monkeypatch.setenv("SLOW", "3")
    monkeypatch.setattr("crossllm.cache.cluster.sending.STOPPING", 1.0)  # of these none says that it has left
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 1)
    taken: list[str] = []

    with cluster(1) as found, meanwhile(lambda over: retire_the_busy(found, over, taken, 4, 0.5, kill=True)):
        done = embedded(fasta, tmp_path / "spread", found.scheduler_address)
    assert len(taken) == 4
    assert (done.embedded, done.failed) == (1, 0), capfd.readouterr().err


def test_a_run_whose_workers_have_all_left_says_so_and_waits(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where nothing is left to hand out."""
    monkeypatch.setenv("SLOW", "1.5")
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 2)
    said: list[str] = []

    with cluster(1) as found:

        def leave(over: threading.Event) -> None:
            while not list(tmp_path.glob("spread/embeddings/rna/*/segments/*")) and not over.wait(0.05):
                pass
            found.scale(0)
            while "waiting for one" not in "".join(said) and not over.wait(0.2):
                said.append(capfd.readouterr().err)
            found.scale(1)

        with meanwhile(leave):
            done = embedded(fasta, tmp_path / "spread", found.scheduler_address)
    assert "no worker is there now; waiting for one" in "".join(said)
    assert (done.embedded, done.failed) == (2, 0)
