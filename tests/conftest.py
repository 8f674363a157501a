"""What all tests share: where the real data lies, small caches made on the spot, the program as a user runs it."""

from __future__ import annotations

import os

# One thread a test process: two of them share two cores, and OpenMP's threads spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # a test compares one with two

import gc
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from zygote import ENTRY, TIMEOUT, Zygote

if TYPE_CHECKING:  # what is heavy is imported where it is used: the process that hands out the tests runs none
    from s3_proxy import Bucket

    from crossllm.cache import Recipe
    from crossllm.pipeline.training.inputs import TrainOptions

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"

USERS_WEIGHTS = os.environ.get("CROSSLLM_WEIGHTS")
os.environ["CROSSLLM_WEIGHTS"] = os.devnull + "/none"  # no test finds weights that its user has pulled

MEMORY = Path("/dev/shm")
ROOM = 2 << 30
"""Bytes: several times what the folders of all tests hold at a time."""
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
    # Tests' folders are in memory: the thousands of fsyncs of the stores wait for nothing there.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's job in the background: its children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is there before the first test stays to the end: the collector need not go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_finish() -> None:
    """One thread each, in the processes that run tests."""
    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)


def pytest_runtest_setup() -> None:
    """And one thread still, whatever the test before left behind: another number changes the last bits of a run."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs programs, kills them or has a made dataset to train on is slow, whether its test says so or not."""
    slow = {"fresh_program", "programs", "zygote", "_demo", "affinities", "s3_server"}
    for item in items:
        if slow & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def real_data() -> Path:
    """The public datasets beside the checkout; a test that needs them is skipped where they are absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def rpi1460_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RPI1460 as a dataset; its alignment is made once for all test processes."""
    from made_baselines import imported

    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}")
    folder = imported(DATA / "rpi1460", ("rna", "protein"), tmp_path_factory.mktemp("real") / "rpi1460")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "similarity-of-rpi1460"
    shared.mkdir(exist_ok=True)
    (folder / "similarity").symlink_to(shared)
    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator whose seed is printed; `CROSSLLM_TEST_SEED` sets another."""
    seed = int(os.environ.get("CROSSLLM_TEST_SEED", zlib.crc32(request.node.name.encode())))
    print(f"seed {seed} (set CROSSLLM_TEST_SEED to repeat)")
    return np.random.default_rng(seed)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: fsync costs nothing there."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def programs() -> Iterator[Zygote]:
    """Forks a child for a program, which has its modules imported."""
    with Zygote("programs") as found:
        yield found


@pytest.fixture
def program(tmp_path: Path, programs: Zygote) -> Program:
    """Runs `embed …`, `train …` or `crossllm …` as a process in `tmp_path`, warnings as errors.

    Its modules are imported before; where that is not the same, there is `fresh_program`.
    """

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return programs.program(name, [str(argument) for argument in arguments], tmp_path)

    return run


@pytest.fixture
def fresh_program(tmp_path: Path) -> Program:
    """As `program`, in a Python started anew, as a user's: for what imports, or what the environment says to them."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", ENTRY[name], *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)

    return run


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """HOST:PORT of an S3-speaking server in a process of its own; it ends when its standard input does."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0, verbose=False); s.start(); "
        "print(*s.get_host_and_port(), sep=':', flush=True); sys.stdin.read()"
    )
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen([sys.executable, "-c", code], text=True, stdin=pipe, stdout=pipe, stderr=none) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """A new bucket behind a proxy that makes faults; the environment names it, as a user's would."""
    from s3_proxy import ENVIRONMENT, FaultProxy, new_bucket

    proxy = FaultProxy(s3_server)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    yield new_bucket(proxy)
    from crossllm.cache.remote import by_path

    by_path._known.cache_clear()  # and with it the connections: other tests count descriptors
    by_path.marked_folder.cache_clear()
    proxy.close()


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages of the documentation name."""
    import functools

    from made_inputs import write_inputs

    from crossllm.pipeline.training import config

    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")
    monkeypatch.setattr(config, "TrainConfig", functools.partial(config.TrainConfig, folds=2, epochs=2))
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty files: half of what a small run in this process takes, for tests of something else."""
    monkeypatch.setattr("crossllm.pipeline.reporting.plots.figure_bytes", lambda *_: b"")


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Forks a child for an operation that is to be killed."""
    with Zygote("operations") as found:
        yield found


@pytest.fixture
def recipe() -> Recipe:
    from crossllm.cache import Recipe

    return Recipe("rna", "profile", 1, 24, tokenizer="letters")


@pytest.fixture
def made_rows(rng: np.random.Generator) -> dict[bytes, np.ndarray]:
    """Random rows of 40 sequences, lengths 1 to 300."""
    from crossllm.cache import key_of

    lengths = [1, 2, 300, *rng.integers(1, 200, 37).tolist()]
    return {
        key_of("rna", "ACGU" * (n + 1)): rng.normal(size=(length, 24)).astype(np.float16)
        for n, length in enumerate(lengths)
    }


@pytest.fixture
def made_cache(tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]) -> Path:
    """A cache of `made_rows` in several segments."""
    from crossllm.cache import CacheWriter

    folder = tmp_path / "cache" / "made"
    with CacheWriter(folder, recipe, segment_bytes=64 << 10) as writer:
        for key, rows in made_rows.items():
            writer.add(key, rows)
    return folder


@pytest.fixture(scope="session")
def _demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, and only ever copied."""
    from made_runs import embedded_demo

    return embedded_demo(tmp_path_factory.mktemp("made") / "demo", entities=30, pairs=160)


@pytest.fixture(scope="session")
def _trained(_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from made_runs import QUICK

    from crossllm.pipeline.train import train
    from crossllm.pipeline.training.inputs import TrainOptions

    folder = tmp_path_factory.mktemp("trained") / "demo"
    shutil.copytree(_demo, folder)
    train(TrainOptions(folder, QUICK, quiet=True))
    return folder


@pytest.fixture
def small(tmp_path: Path, _demo: Path) -> TrainOptions:
    """A small embedded demo, to be trained on quickly."""
    from made_runs import QUICK

    from crossllm.pipeline.training.inputs import TrainOptions

    return TrainOptions(shutil.copytree(_demo, tmp_path / "demo"), QUICK, quiet=True)


@pytest.fixture
def trained(tmp_path: Path, _trained: Path) -> TrainOptions:
    """As `small`, and the run of it is finished, in its own folder `runs/demo`."""
    from made_runs import QUICK

    from crossllm.pipeline.training.inputs import TrainOptions

    return TrainOptions(shutil.copytree(_trained, tmp_path / "demo"), QUICK, quiet=True)
