"""Several processes train one model: the same loss trace as one, and one line when a process is gone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from made_runs import embedded_demo, rows
from rank_traces import CASES, trace
from torch import nn
from zygote import ENTRY, Child, Zygote

from crossllm.cache.errors import InputError
from crossllm.model.draws import Dropout, Noise, Part, draw_for
from crossllm.pipeline.ranks import watch
from crossllm.pipeline.ranks.launch import Launched, launched
from crossllm.pipeline.ranks.ranks import ALONE, Ranks
from crossllm.pipeline.ranks.step import whole_outputs
from crossllm.pipeline.training.sampler import Bounds, Side, cut, dealt_out, shared_out, shuffled_batches

slow = pytest.mark.slow
CLOSE = 1e-5
"""Of the loss: the issue asks for it; measured 4e-7."""


def made_sides(rng: np.random.Generator, pairs: int) -> list[Side]:
    """Lengths as those of sequences: a few are far longer than the others."""
    return [Side(rng.integers(0, 40, pairs), np.ceil(rng.lognormal(4, 1, 40)).astype(np.int64)) for _side in range(2)]


def tokens(pairs: np.ndarray, sides: list[Side]) -> int:
    return 2 * sum(int(side.tokens[np.unique(side.of_pair[pairs])].sum()) for side in sides)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_batch_is_shared_out_by_tokens(rng: np.random.Generator, count: int) -> None:
    sides = made_sides(rng, 400)
    bounds = Bounds(32, 1 << 16)
    for batch in shuffled_batches(np.arange(400), sides, bounds, 8, rng):
        shares = shared_out(batch, sides, bounds, count)
        counted = [share for share in shares if share.counted]
        assert len(shares) == count
        assert np.array_equal(np.concatenate([share.pairs for share in counted]), batch)
        assert all(np.array_equal(batch[s.first : s.first + len(s.pairs)], s.pairs) for s in shares)
        largest = max(tokens(share.pairs, sides) for share in counted)
        # No cut into as many neighbours has a smaller largest share, but for one part in a hundred.
        fewer = cut(batch, sides, Bounds(len(batch), int(largest * 0.98) - 1))
        assert len(fewer) > count or max(tokens(part, sides) for part in fewer) > largest * 0.98


def test_a_process_without_a_pair_computes_the_shortest(rng: np.random.Generator) -> None:
    sides = made_sides(rng, 3)
    shares = shared_out(np.arange(3), sides, Bounds(32, 1 << 16), 5)
    idle = [share for share in shares if not share.counted]
    assert len(idle) >= 2
    shortest = min(range(3), key=lambda n: tokens(np.array([n]), sides))
    assert all(share.pairs.tolist() == [shortest] == [share.first] for share in idle)


def test_whole_batches_are_dealt_out_by_tokens(rng: np.random.Generator) -> None:
    sides = made_sides(rng, 900)
    batches = shuffled_batches(np.arange(900), sides, Bounds(8, 1 << 16), 1, rng)
    dealt = dealt_out(batches, sides, 3)
    assert sorted(n for numbers in dealt for n in numbers) == list(range(len(batches)))
    load = [sum(tokens(batches[n], sides) for n in numbers) for numbers in dealt]
    assert max(load) < 1.05 * min(load)


def test_a_part_is_drawn_as_in_the_whole_batch(rng: np.random.Generator) -> None:
    layers = nn.Sequential(Noise(0.3), Dropout(0.4))
    x = torch.from_numpy(rng.normal(size=(90, 17))).float()
    own = torch.from_numpy(np.sort(rng.choice(90, 31, replace=False)))
    torch.manual_seed(1)
    whole, after = layers(x), torch.get_rng_state()
    draw_for(layers, Part(own, 90))
    torch.manual_seed(1)
    assert torch.equal(layers(x[own]), whole[own])
    assert torch.equal(torch.get_rng_state(), after), "all processes' generators stay together"
    assert torch.equal(layers.eval()(x[own]), x[own])


def test_the_gradient_at_the_own_outputs_is_that_of_the_whole_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss that is no sum over pairs."""
    outputs = torch.tensor([[0.5, -1.0, 2.0, 0.3, 0.1]], requires_grad=True)
    outputs.square().sum(1).sqrt().sum().backward()
    own = outputs.detach()[:, 1:3].requires_grad_(True)

    def others(self: Ranks, values: torch.Tensor) -> torch.Tensor:
        mine = values.clone()
        values.copy_(outputs.detach())
        assert torch.equal(mine[:, 1:3], values[:, 1:3])
        assert not mine[:, [0, 3, 4]].any()
        return values

    monkeypatch.setattr(Ranks, "sum", others)
    whole_outputs(Ranks(1, 3), own, slice(1, 3), 5, counted=True).square().sum(1).sqrt().sum().backward()
    assert outputs.grad is not None
    assert own.grad is not None
    torch.testing.assert_close(own.grad, outputs.grad[:, 1:3])


def test_one_process_sends_nothing() -> None:
    assert ALONE.tell({"a": 1}) == {"a": 1}
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert torch.equal(ALONE.sum(torch.ones(2)), torch.ones(2))


GOOD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_what_the_launcher_says() -> None:
    assert launched(GOOD) == Launched(1, 2, 1, "127.0.0.1", 29500, False, 0)
    own = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert launched(GOOD | own) == Launched(1, 2, 1, "127.0.0.1", 29500, True, 2)
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "1", "RANK": "0"}) is None, "a container's defaults"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"RANK": ""}, "WORLD_SIZE is 2 and RANK is not set; start the processes with `torchrun --nproc-per-node=2"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_ADDR, MASTER_PORT is not set"),
        ({"RANK": "2"}, "RANK is '2', expected 0 to 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is '0'"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
    ],
)
def test_bad_variables(change: dict[str, str], text: str) -> None:
    with pytest.raises(InputError) as caught:
        launched(GOOD | change)
    assert text in str(caught.value)


def test_who_counts_no_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs, and whose connection stays."""
    counts = {"alive/1": 0}
    ended: list[int] = []
    said: list[list[str]] = []

    class Store:
        def add(self, key: str, amount: int) -> int:
            counts[key] = counts.get(key, 0) + amount
            if key == "alive/1" and counts["alive/0"] < 5:
                counts[key] += 1
            return counts[key]

    def leave(code: int) -> None:
        ended.append(code)
        seen.stop()

    monkeypatch.setattr(watch, "TICK", 0.001)
    monkeypatch.setattr(watch.os, "_exit", leave)
    monkeypatch.setattr(watch, "show_errors", said.append)
    seen = watch.Watch(Store(), 0, 2, lambda: True)
    seen._thread.join(30)
    assert ended == [4]
    assert counts["alive/0"] == 4 + watch.TICKS
    assert len(said) == 1
    assert said[0][0].startswith("process 2 of 2: has not answered for ")


def test_a_watch_that_is_stopped_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of a look: a thread that Python's end cuts off there aborts the process."""
    looking, go_on = threading.Event(), threading.Event()

    class Store:
        def add(self, _key: str, _amount: int) -> int:
            looking.set()
            go_on.wait(30)
            return 1

    monkeypatch.setattr(watch, "TICK", 0.001)
    seen = watch.Watch(Store(), 0, 2, lambda: True)
    assert looking.wait(30)
    threading.Timer(0.2, go_on.set).start()
    seen.stop()
    assert not seen._thread.is_alive()


def free_port() -> int:
    """One that the system gives to nobody meanwhile: below those of outgoing connections of tests beside this one."""
    for port in itertools.count(20_000 + os.getpid() % 10_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


def environment(rank: int, port: int) -> dict[str, str]:
    return GOOD | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_demo(tmp_path_factory.mktemp("ranks") / "demo", entities=30, pairs=160)


@slow
def test_two_processes_have_the_loss_trace_of_one(cache: Path) -> None:
    """Unequal shares, batches of one pair, noise, dropout, an ensemble, an average of weights, a correlation."""
    port = free_port()
    children = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("rank_traces.py")), str(cache)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, **environment(rank, port)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [child.communicate(timeout=200)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[0] == said[1]
    for task in CASES:
        alone, (steps, epochs, score) = trace(cache, task, ALONE), json.loads(said[0])[task]
        assert len(steps) >= 20
        np.testing.assert_allclose(steps[:20], alone.steps[:20], rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(epochs, alone.epochs, rtol=10 * CLOSE)  # rounding grows from step to step
        np.testing.assert_allclose(score, alone.score, rtol=10 * CLOSE, atol=10 * CLOSE)


FLAGS = ["--epochs", "12", "--patience", "12", "--folds", "2", "--d-model", "8", "--set", "d_state=4", "--quiet"]


class Pair:
    """Two processes of `train`, started by hand as a launcher does."""

    def __init__(self, programs: Zygote, flags: list[str], folder: Path) -> None:
        port = free_port()
        self._began = time.time()
        self.errors = [folder / f"err-{rank}" for rank in (0, 1)]
        self.children = [self._start(programs, flags, rank, port) for rank in (0, 1)]
        self._events = folder / "run" / "tensorboard" / "fold-0"

    def _start(self, programs: Zygote, flags: list[str], rank: int, port: int) -> Child:
        err: IO[bytes]
        with (
            pytest.MonkeyPatch.context() as patch,
            self.errors[rank].open("wb") as err,
            open(os.devnull, "r+b") as nothing,
        ):
            for name, value in environment(rank, port).items():
                patch.setenv(name, value)
            return programs.start("train", flags, (nothing, nothing, err), cwd=self.errors[rank].parent)

    def wait_for_an_epoch(self) -> None:
        end = time.monotonic() + 100
        while not any(
            path.stat().st_size > 300 and path.stat().st_mtime > self._began for path in self._events.glob("*")
        ):
            assert time.monotonic() < end
            assert [child.poll() for child in self.children] == [None, None], self.lines()
            time.sleep(0.01)

    def codes(self, seconds: float) -> list[int]:
        return [child.wait(seconds) for child in self.children]

    def lines(self) -> list[str]:
        """What both said, without notes."""
        every = [line for path in self.errors for line in path.read_text().splitlines()]
        return [line for line in every if not line.startswith("note: ")]


@slow
def test_a_signal_a_kill_and_going_on(programs: Zygote, cache: Path, tmp_path: Path) -> None:
    """A signal to one stops both after one step; SIGKILL of one ends the other with one line; torchrun goes on."""
    flags = ["--cache", str(cache), "--out", str(tmp_path / "run"), "--baselines", "none", *FLAGS]
    pair = Pair(programs, flags, tmp_path)
    pair.wait_for_an_epoch()
    pair.children[1].send_signal(signal.SIGTERM)
    assert pair.codes(30) == [143, 143]
    assert pair.lines() == ["terminated; what was committed before stays; the same command with --resume goes on"]
    (kept,) = (tmp_path / "run" / "checkpoints").glob("*.json")
    assert json.loads(kept.read_text())["steps"] > 0

    pair = Pair(programs, [*flags, "--resume"], tmp_path)
    pair.wait_for_an_epoch()
    pair.children[1].send_signal(signal.SIGKILL)
    assert pair.codes(30) == [4, -9]
    (line,) = pair.lines()
    assert line.startswith("error: one of the 2 processes: has ended, or no longer answers; ")
    assert line.endswith("run it again with --resume")

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    entry = [str(Path(sys.executable).with_name("train")), *flags, "--resume"]
    with (tmp_path / "said").open("w") as said:
        done = subprocess.run([*torchrun, *entry], stdout=said, stderr=said, timeout=200)
    text = (tmp_path / "said").read_text()
    assert done.returncode == 0, text
    assert text.count(f"→ {tmp_path / 'run'}") == 1
    assert programs.program("train", [*flags[:3], str(tmp_path / "one"), *flags[4:]], tmp_path).returncode == 0
    for name, numbers in (("history.csv", ("train_loss", "validation_loss")), ("predictions.tsv", ("score",))):
        mark = "," if name.endswith("csv") else "\t"
        ours, theirs = (rows(tmp_path / run / name, mark) for run in ("run", "one"))
        assert len(ours) == len(theirs) > 20
        for column in numbers:
            both = [np.array([float(row[column]) for row in table]) for table in (ours, theirs)]
            np.testing.assert_allclose(*both, rtol=20 * CLOSE, atol=20 * CLOSE)


@slow
def test_an_error_is_said_once(cache: Path, tmp_path: Path) -> None:
    """By a Python started anew: torch reads how much it may say when it loads."""
    port = free_port()
    command = [sys.executable, "-c", ENTRY["train"], "-c", str(cache), "--system", "kmer_trees", "--out", "run"]
    children = [
        subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment(rank, port)}
        )
        for rank in (0, 1)
    ]
    said = "".join(child.communicate(timeout=100)[1] for child in children)
    assert children[0].returncode == 2
    assert children[1].returncode != 0
    assert [line for line in said.splitlines() if not line.startswith("note: ")] == [
        "error: --system kmer_trees: is fitted by one process; start train without torchrun"
    ]
