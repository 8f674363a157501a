"""The next batch is read and packed while this one is computed."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")
DEPTH = 2
"""Results made in advance."""
TICKS, TICK = 25, 1.0
"""How often in a row, and for how many seconds each time, a result is waited for before its reader is given up."""


class _Lost(OSError):
    """A result that does not come."""


class Place(NamedTuple):
    """Where a thread is reading, for the error."""

    path: str
    what: str


@dataclass
class WaitTime:
    """How long a consumer stood still because nothing was ready."""

    waited: float = 0.0
    """Seconds."""
    total: float = 0.0
    """Seconds from the first request to the last result used."""

    @property
    def share(self) -> float:
        """Part of the time that was spent waiting; 0 before anything was measured."""
        return self.waited / self.total if self.total else 0.0


def prefetched(
    make: Callable[[T], R], items: Iterable[T], waiting: WaitTime, place: Callable[[], Place]
) -> Iterator[R]:
    """`make` of each item, in order, made up to `DEPTH` in advance by one other thread.

    What `make` raises is raised here, at its item.  `make` never runs twice at once.

    A disk or a network file system that hangs would hold the thread, and with it the run, for ever.  So a result that
    is waited for may take `TICKS` · `TICK` = 25 s, with the defaults a batch of 168 MB at 7 MB/s; the thread is then
    left behind, as nothing can end it.  Ticks are counted, not the clock: a process that was stopped for an hour and
    goes on has waited for one tick.

    Args:
        make: what is done in the thread.
        items: what it is done with.
        waiting: is added to.
        place: where the thread is reading now.

    Raises:
        OSError: EIO at that place: no result in time, or the thread is gone.
    """
    began = time.perf_counter()
    asked: SimpleQueue[tuple[Future[R], T] | None] = SimpleQueue()
    # A daemon: the end of the process does not wait for a thread that hangs, as it would for one of an executor.
    thread = threading.Thread(target=_work, args=(make, asked), name="prefetched", daemon=True)
    thread.start()
    pending: deque[Future[R]] = deque()
    patience = TICKS * TICK
    try:
        for item in items:
            pending.append(Future())
            asked.put((pending[-1], item))
            if len(pending) > DEPTH:
                yield _next(pending, waiting, thread, place)
        while pending:
            yield _next(pending, waiting, thread, place)
    except _Lost:
        patience = 0
        raise
    finally:
        for future in pending:
            future.cancel()
        asked.put(None)
        waiting.total += time.perf_counter() - began
        thread.join(patience)


def _work(make: Callable[[T], R], asked: SimpleQueue[tuple[Future[R], T] | None]) -> None:
    """The thread: one after the other, until None."""
    while (wanted := asked.get()) is not None:
        future, item = wanted
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(make(item))
        except BaseException as error:  # raised again by whoever waits for it
            future.set_exception(error)


def _next(pending: deque[Future[R]], waiting: WaitTime, thread: threading.Thread, place: Callable[[], Place]) -> R:
    began = time.perf_counter()
    try:
        if _lost(pending[0], thread):
            path, what = place()
            gone = f"nothing came for {TICKS * TICK:g} s" if thread.is_alive() else "its reader is gone"
            raise _Lost(errno.EIO, f"reading {what}: {gone}", path)
        return pending.popleft().result()
    finally:
        waiting.waited += time.perf_counter() - began


def _lost(future: Future[R], thread: threading.Thread) -> bool:
    """Whether a result did not come in time, or never will."""
    for _ in range(TICKS):
        if future.done() or wait([future], TICK).done:
            return False
        if not thread.is_alive():
            return not future.done()
    return True
