"""RELIABILITY P1, P1b, P2: a writer killed at any instant loses nothing that it acknowledged, and leaves no damage."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fault_operations import (
    OPERATIONS,
    Contents,
    broken_promises,
    contents,
    copy_start,
    counting,
    damage,
)
from faultio import FaultyOs, installed
from zygote import Done, Zygote

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
"""`make chaos`: the long ones."""
PAIRS = 500 if CHAOS else 60
KILLS = 1000 if CHAOS else 60


UNSEEN = ("fsync", "fsync dir", "close")
"""Kinds of operations after which a killed process leaves what it leaves before them."""


class Scene(NamedTuple):
    """A folder in memory with an operation's start, and what the cache holds before and after it."""

    name: str
    start: Path
    before: Contents
    after: Contents
    room: Path
    """For copies."""


@pytest.fixture
def scene(request: pytest.FixtureRequest, memory: Path) -> Scene:
    name = request.param
    start = memory / "start"
    start.mkdir()
    OPERATIONS[name].start(start / "cache")
    before = contents(start / "cache", damaged=OPERATIONS[name].damaged)
    whole = copy_start(start, memory / "whole")
    OPERATIONS[name].work(whole, None)
    assert not damage(whole)
    return Scene(name, start, before, contents(whole), memory)


every_operation = pytest.mark.parametrize("scene", OPERATIONS, indirect=True)


class Killed(NamedTuple):
    """What a killed child left."""

    cache: Path
    acks: Path
    done: Done


def kill_and_check(
    zygote: Zygote,
    scene: Scene,
    cache: Path,
    kill: tuple[int, bool] | None,
    near: tuple[int, float] | None = None,
    pause: float = 0.0,
) -> Done:
    """Run the scene's operation in a child and check what it left, as it stands."""
    acks = cache.parent / "acks"
    acks.touch()
    done = zygote.run(scene.name, cache, kill=kill, kill_near=near, pause=pause, acks=acks)
    where = f"killed at {kill or near}, in operation {done.ops} ({done.kind}); the folder was {cache}"
    assert done.code in (0, -signal.SIGKILL), where
    recipe = {name.split()[1]: name for name in scene.after}
    acked = {recipe[line] for line in acks.read_text().split("\n")[:-1]}
    promised = acked | scene.before.keys()
    operation = OPERATIONS[scene.name]
    found = broken_promises(cache, scene.before | scene.after, promised, damaged=operation.damaged)
    assert not found, f"{where}: {found}"
    operation.check(cache)
    return done


def finish(scene: Scene, cache: Path, *, once_more: bool = True) -> int:
    """The same command again completes the work, and `once_more` does nothing; what the first computed."""
    operation = OPERATIONS[scene.name]
    with counting() as count:
        operation.work(cache, None)
        computed = count[0]
        assert contents(cache) == scene.after
        assert not damage(cache)
        if not once_more:
            return computed
        there = files(cache)
        operation.work(cache, None)
    assert count[0] == computed, "a second resume computed again"
    assert files(cache) == there or contents(cache) == scene.after
    return computed


def files(cache: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of a cache, and what would be another if it were written again."""
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(cache) for name in names)  # noqa: PTH118
    return {path: (found.st_ino, found.st_size, found.st_mtime_ns) for path in paths for found in [os.stat(path)]}


class Step(NamedTuple):
    """Where a run stands just before an operation."""

    kind: str
    """Of the operation."""
    acked: int
    """Bytes of what is acknowledged by then."""


def steps_of(scene: Scene) -> list[Step]:
    """Of a run that nothing disturbs."""
    steps: list[Step] = []
    cache, acks = copy_start(scene.start, scene.room / "count"), scene.room / "count" / "acks"
    descriptor = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with installed(FaultyOs()) as shim:
        shim.on_op = lambda _n, op: steps.append(Step(op.kind, acks.stat().st_size))
        OPERATIONS[scene.name].work(cache, descriptor)
    os.close(descriptor)
    return steps


@every_operation
def test_killed_at_every_operation(zygote: Zygote, scene: Scene) -> None:
    """P1b: before each operation, which is also after the one before, and with half of each write written.

    After an operation that changes nothing that is seen, the folder is as it was before it: outside `make chaos` the
    same folder with the same acknowledgements is not made and looked at again.
    """
    kinds: Counter[str] = Counter()
    # Where a thread writes too, another run's operations may come in another order.
    steps = [] if CHAOS or OPERATIONS[scene.name].together else steps_of(scene)
    n, again = 1, 0
    while True:
        for midway in (False, True):
            if not midway and 1 < n <= len(steps):
                before, step = steps[n - 2 : n]
                if before.kind in UNSEEN and before.acked == step.acked:
                    if step.kind != "write":
                        break
                    continue
            cache = copy_start(scene.start, scene.room / "cut")
            done = kill_and_check(zygote, scene, cache, (n, midway))
            if done.code == 0:
                break
            kinds[done.kind + (" midway" if midway else "")] += 1
            assert not steps or done.kind == steps[n - 1].kind
            if CHAOS or midway or done.before not in UNSEEN or OPERATIONS[scene.name].together:
                # Half of a write is in a file that nobody reads, as the whole of it is just after.
                again = finish(scene, cache, once_more=CHAOS or not midway)
            assert done.encoded + again <= len(scene.after) + OPERATIONS[scene.name].in_flight, (
                "more than what was in flight"
            )
            shutil.rmtree(scene.room / "cut")
            if done.kind != "write":
                break
        if done.code == 0:
            break
        n += 1
    print(f"{scene.name}: killed {kinds.total()} times: {dict(kinds)}")
    assert n > 8
    assert n - 1 - OPERATIONS[scene.name].together <= done.ops < n


@every_operation
def test_killed_again_while_it_recovers(zygote: Zygote, scene: Scene, rng: np.random.Generator) -> None:
    """Pairs: killed at one operation, started again, killed at another."""
    total = zygote.run(scene.name, copy_start(scene.start, scene.room / "count")).ops
    for _ in range(PAIRS // len(OPERATIONS)):
        cache = copy_start(scene.start, scene.room / "cut")
        encoded = 0
        for n in rng.integers(1, total + 1, 2).tolist():
            encoded += kill_and_check(zygote, scene, cache, (n, bool(rng.integers(2)))).encoded
        assert encoded + finish(scene, cache) <= len(scene.after) + 2 * OPERATIONS[scene.name].in_flight
        shutil.rmtree(scene.room / "cut")


@pytest.mark.parametrize("scene", ["run"], indirect=True)
def test_killed_at_random_instants(zygote: Zygote, scene: Scene, rng: np.random.Generator) -> None:
    """P1: an instant near an operation, each kind of them as often as the others, within it or after it."""
    by_kind: dict[str, list[int]] = {}
    with installed(FaultyOs()) as shim:
        shim.on_op = lambda n, op: by_kind.setdefault(op.kind, []).append(n)
        OPERATIONS[scene.name].work(copy_start(scene.start, scene.room / "count"), None)
    kinds: Counter[str] = Counter()
    acked = 0
    for number in range(KILLS):
        cache = copy_start(scene.start, scene.room / "cut")
        near = int(rng.choice(by_kind[str(rng.choice(sorted(by_kind)))]))
        slow = 0.0002 * (number % 2)
        done = kill_and_check(zygote, scene, cache, None, (near, 0.0005 * float(rng.uniform()) ** 4), slow)
        kinds[done.kind] += 1
        acked += len((cache.parent / "acks").read_text().splitlines())
        finish(scene, cache)
        shutil.rmtree(scene.room / "cut")
    print(f"{KILLS} kills, {acked} records acknowledged before them; last operation begun: {dict(kinds)}")
    assert 0 < acked < KILLS * len(scene.after), "kills before, between and after the commits"
    if CHAOS:
        assert min(kinds[kind] for kind in by_kind) >= 20
