"""`embed run --dask`: as one process would do it, whatever happens to the workers."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from dask_workers import PRELOAD, workers_of
from fault_operations import contents, damage
from zygote import ENTRY

from crossllm.cache import InputError
from crossllm.cache.cluster.address import ClusterName, parse_cluster
from crossllm.embed.distributed.batches import cut, split
from crossllm.embed.run.run import RunOptions, RunSummary, run

LETTERS = np.array(list("ACGU"))
POISON = "GGGGGGGGGG"
SEGMENTS = "spread/embeddings/rna/*/segments/[0-9a-f]*"


def write_fasta(path: Path, rng: np.random.Generator, count: int, poison: tuple[int, ...] = ()) -> Path:
    """Random RNAs r0, r1, …; those in `poison` begin as no other does."""
    lines = []
    for n in range(count):
        sequence = POISON * (n in poison) + "A" + "".join(rng.choice(LETTERS, int(rng.integers(5, 60))))
        lines.append(f">r{n}\n{sequence}\n")
    path.write_text("".join(lines))
    return path


def embedded(fasta: Path, cache: Path, dask: str | None = None) -> RunSummary:
    name = None if dask is None else parse_cluster(dask)
    return run(RunOptions("rna", fasta, cache, "profile", dask=name, quiet=True))


@pytest.fixture
def in_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Workers that start now load `dask_preload`; its variables are set by this."""
    import dask

    monkeypatch.setenv(
        "DASK_DISTRIBUTED__WORKER__PRELOAD", str(PRELOAD)
    )  # read by processes that load dask from now on
    with dask.config.set({"distributed.worker.preload": [str(PRELOAD)]}):  # a nanny hands it to its worker
        yield monkeypatch


# -- what is handed out


def test_batches_are_of_like_work_and_lengths(rng: np.random.Generator) -> None:
    lengths = rng.integers(1, 1000, 5000)
    batches = list(cut(lengths, workers=3, least=2000, most=20_000))
    assert sorted(np.concatenate(batches).tolist()) == list(range(5000))
    work = [int(lengths[places].sum()) + 32 * len(places) for places in batches]
    assert max(work) <= 20_000 + 2 * 1032
    assert max(work[:-1]) - min(work[:-1]) <= 2 * 1032
    assert all(lengths[a].min() >= lengths[b].max() for a, b in itertools.pairwise(batches))
    assert len(list(cut(lengths[:40], workers=2, least=1 << 20, most=1 << 20))) >= 8, "a small run is shared out too"
    assert not list(cut(lengths[:0], workers=2, least=1, most=1))


def test_a_poison_record_is_alone_at_the_third_death() -> None:
    places, deaths = np.arange(1000), 0
    while len(places) > 1:
        deaths += 1
        places = next(piece for piece in split(places, deaths) if 617 in piece)
    assert deaths == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("local:0", "1 to 1024 workers"),
        ("local:x", "local, local:N"),
        ("http://host:80", "local, local:N"),
        ("nowhere.json", "there is no such file"),
        ("broken.json", "not a scheduler's file"),
        ("ucx.json", "its address is ucx://a:1, tcp://HOST:PORT or"),
        ("bare.json", "its address is tcp://, tcp://HOST:PORT or"),
    ],
)
def test_what_names_no_cluster(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text('{"adress": 1}')
    Path("ucx.json").write_text('{"address": "ucx://a:1"}')
    Path("bare.json").write_text('{"address": "tcp://"}')
    with pytest.raises(InputError, match=said):
        parse_cluster(text)


def test_what_names_one(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "Scheduler", "address": "tcp://10.0.0.1:8786"}')
    assert parse_cluster("local") == ClusterName("local", None)
    assert parse_cluster("local:3").workers == 3
    assert parse_cluster("tls://host:1").contact == "tls://host:1"
    assert parse_cluster(str(tmp_path / "s.json")).contact == "tcp://10.0.0.1:8786"


def test_without_dask(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossllm.cache.cluster.opening.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'crossllm-mamba\[dask\]'"):
        embedded(write_fasta(tmp_path / "rna.fasta", rng, 3), tmp_path / "cache", "local:1")


@pytest.mark.slow
def test_what_listens_and_is_no_scheduler(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossllm.cache.cluster.opening.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(InputError, match="says nothing"):
        embedded(
            write_fasta(tmp_path / "rna.fasta", rng, 3), tmp_path / "c", f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        )


# -- runs


@pytest.mark.slow
def test_workers_killed_five_times(
    tmp_path: Path, rng: np.random.Generator, in_workers: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bit by bit what one process stores; no record is blamed, and no process is left."""
    in_workers.setenv("SLOW", "0.02")
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 400)
    embedded(fasta, tmp_path / "plain")
    killed: list[int] = []

    over = threading.Event()

    def kill() -> None:
        while not list(tmp_path.glob(SEGMENTS)) and not over.is_set():
            time.sleep(0.05)
        while len(killed) < 5 and not over.is_set():
            time.sleep(0.9)
            for worker in workers_of(os.getpid())[:1]:
                worker.kill()
                killed.append(worker.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        done = embedded(fasta, tmp_path / "spread", "local:2")
    finally:
        over.set()
        killer.join()
    assert len(killed) == 5, "the run ended before the kills"
    assert "a worker ended" in capfd.readouterr().err
    assert (done.embedded, done.failed, done.already) == (400, 0, 0)
    assert contents(tmp_path / "spread") == contents(tmp_path / "plain")
    assert not damage(tmp_path / "spread")
    assert not workers_of(os.getpid())


@pytest.fixture
def scheduler(in_workers: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster as its owner has started it, Dask's own number of allowed failures with it."""
    in_workers.setenv("POISON", POISON)
    in_workers.setenv("REFUSED", "CCCCCCCCCC")
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.deploy.lost-worker-timeout": "1 hour",  # its nannies are not closed meanwhile
        "distributed.nanny.pre-spawn-environ": {},  # it would stay here (findings/distributed_nanny_environ.sh)
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.mark.slow
def test_a_poison_record_is_named_and_the_rest_goes_on(
    tmp_path: Path, rng: np.random.Generator, scheduler: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 120, poison=(17,))
    (tmp_path / "bad.fasta").write_text(">bad\nCCCCCCCCCCA\n")
    with pytest.raises(InputError) as error:
        embedded(tmp_path / "bad.fasta", tmp_path / "other", scheduler)
    assert error.value.lines == ("first line", "second line, of bad"), "as the worker raised it"
    done = embedded(fasta, tmp_path / "spread", scheduler)
    assert (done.embedded, done.failed) == (119, 1)
    failed = Path(str(done.recipes[0].failed_list)).read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in failed] == ["r17"]
    assert "3 workers ended" in failed[0]
    said = capfd.readouterr().err
    assert said.count("a worker ended, ") == 2
    assert said.count("r17: 3 workers ended") == 1, "three workers in all, no more"
    embedded(fasta, tmp_path / "plain")
    held, whole = contents(tmp_path / "spread"), contents(tmp_path / "plain")
    assert len(held) == 119
    assert held.items() < whole.items()
    assert embedded(fasta, tmp_path / "spread").embedded == 1, "a later run makes it good"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, tmp_path: Path, rng: np.random.Generator, in_workers: pytest.MonkeyPatch
) -> None:
    """The terminal's Ctrl-C reaches all processes; what is encoded is committed, and the same command goes on."""
    in_workers.setenv("SLOW", "0.05")
    in_workers.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 600)
    command = ["run", "--modality", "rna", "-i", str(fasta), "--encoder", "profile", "-c", str(tmp_path / "spread")]
    code = [sys.executable, "-W", "error", "-c", ENTRY["embed"], *command, "--dask", "local:2"]
    with subprocess.Popen(code, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        deadline = time.monotonic() + 60
        while len(workers_of(child.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        family = psutil.Process(child.pid).children(recursive=True)
        os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
        said = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + number
    assert said.splitlines()[-1].endswith("; what was committed before stays"), said
    assert "Traceback" not in said
    gone, alive = psutil.wait_procs(family, timeout=2)
    assert gone
    assert not alive
    assert not list((tmp_path / "scratch").iterdir())
    held = len(contents(tmp_path / "spread"))
    assert 0 < held < 600
    assert embedded(fasta, tmp_path / "spread").already == held
    assert not damage(tmp_path / "spread")
