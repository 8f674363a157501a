"""What several processes do to one cache at once; run in children of the zygote, which fork in turn."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import numpy as np
from fault_operations import embed_run
from faultio import FaultyOs, Kill, installed

from crossllm.cache import CacheReader, CacheWriter, Recipe, key_of
from crossllm.cache.files.fsio import new_name
from crossllm.cache.maintenance.inspection import verify

RECIPE = Recipe("rna", "raced", 1, 8)
WRITERS, READERS, KEYS_A_ROUND = 8, 2, 3
_FORK = multiprocessing.get_context("fork")


def shared_key(round_: int, number: int) -> bytes:
    """A key that several writers make in the same round."""
    return key_of("rna", f"R{round_}K{number}")


def rows_of(key: bytes) -> np.ndarray:
    """The rows of a key, the same whoever makes them: 1 to 16 of them."""
    length = 1 + key[0] % 16
    return np.resize(np.frombuffer(key, np.uint8), (length, RECIPE.dim)).astype(np.float16)


def keys_of(writer: int, round_: int) -> list[bytes]:
    """What a writer makes in a round: keys that its neighbours make too, and one of its own."""
    shared = [shared_key(round_, (writer + n) % WRITERS) for n in range(KEYS_A_ROUND)]
    return [*shared, key_of("rna", f"own {writer} {round_}")]


def never(writer: int, round_: int) -> bytes:
    """A key that is written and never committed."""
    return key_of("rna", f"never {writer} {round_}")


def is_never(key: bytes, rounds: int) -> bool:
    """Whether a key is one that no reader may see."""
    return key in {never(writer, round_) for writer in range(WRITERS) for round_ in range(rounds)}


def _write(cache: Path, writer: int, rounds: int, barrier: Barrier) -> None:
    for round_ in range(rounds):
        barrier.wait()
        unfinished = CacheWriter(cache, RECIPE)
        unfinished.add(never(writer, round_), rows_of(never(writer, round_)))
        with CacheWriter(cache, RECIPE, segment_bytes=400) as out:
            for key in keys_of(writer, round_):
                out.add(key, rows_of(key))
        if round_ % 2:  # the others are left behind, as by a kill
            unfinished.__exit__(KeyboardInterrupt, None, None)


def _read(cache: Path, rounds: int, over: Event, opened: Path) -> None:
    """Open the cache again and again: what was there stays, all of it is right, nothing uncommitted is seen."""
    before: set[bytes] = set()
    times = 0
    while not over.is_set() or not times:
        reader = CacheReader(cache, RECIPE)
        held = set(reader)
        assert before <= held, "a committed record has gone"
        for key in held - before:
            assert not is_never(key, rounds), "an uncommitted record was seen"
            assert reader[key].tobytes() == rows_of(key).tobytes()
        assert not verify(cache, data=False).damage if times % 8 == 0 and held else True
        before, times = held, times + 1
    (opened / new_name()).write_text(str(times))


def race(cache: Path, _ack_fd: int | None, rounds: int) -> None:
    """`WRITERS` writers, `rounds` times from one barrier each, and readers meanwhile."""
    barrier, over = _FORK.Barrier(WRITERS, timeout=60), _FORK.Event()
    opened = cache.parent / "opened"
    opened.mkdir()
    writers = [_FORK.Process(target=_write, args=(cache, n, rounds, barrier)) for n in range(WRITERS)]
    readers = [_FORK.Process(target=_read, args=(cache, rounds, over, opened)) for _ in range(READERS)]
    for process in (*readers, *writers):
        process.start()
    for process in writers:
        process.join()
    over.set()
    for process in readers:
        process.join()
    assert [process.exitcode for process in (*readers, *writers)] == [0] * (READERS + WRITERS)


def two_runs(cache: Path, _ack_fd: int | None, kill_at: int) -> None:
    """Two `embed run`s of one input started together, one of them killed at an operation."""
    barrier = _FORK.Barrier(2, timeout=60)

    def one(shim: FaultyOs) -> Callable[[], None]:
        def work() -> None:
            barrier.wait()
            with installed(shim):
                embed_run(cache)

        return work

    runs = [_FORK.Process(target=one(FaultyOs(fault))) for fault in (Kill(kill_at), None)]
    for process in runs:
        process.start()
    for process in runs:
        process.join()
    codes = [process.exitcode for process in runs]
    assert codes in ([-signal.SIGKILL, 0], [0, 0]), codes  # one that found all done by the other never gets so far
    if codes[0]:
        (cache.parent / "killed").touch()


WORKS: dict[str, Callable[..., None]] = {"race": race, "two runs": two_runs}
