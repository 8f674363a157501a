"""How one of several processes knows that another is gone: each counts up a number that all can read.

A closed connection is seen at once by whoever waits for it.  This is for the rest: a machine that is off, a process
that hangs, and a GPU's collective, which waits for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from crossllm.cache.console.messages import show_errors

TICK = 1.0
"""Seconds between two looks."""
TICKS = 15
"""Looks at which a number has not changed until its process is given up: counted, so that stopping all of them for an
hour is one look."""
ENDING = 12.0
"""Seconds in which a look has come to its end, whatever the store does."""
LOST = 4
"""Exit code: the system refused."""


class Store(Protocol):
    """Of torch.distributed's `Store` what is used: named numbers."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number, 0 where there is none; what it then is."""


class Watch:
    """A thread that counts up and looks at the others, until `stop`.

    Args:
        store: shared by all.
        rank: of this process.
        count: processes.
        speak: whether this process is the one that says so.
    """

    def __init__(self, store: Store, rank: int, count: int, speak: Callable[[], bool]) -> None:
        self._store, self._rank, self._count, self._speak = store, rank, count, speak
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and end the thread.

        Python's end would cut it off within torch's code, which aborts the process.
        """
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(ENDING)

    def _look(self) -> None:
        seen = dict.fromkeys(set(range(self._count)) - {self._rank}, 0)
        still = dict.fromkeys(seen, 0)
        while not self._stopped.wait(TICK):
            for other in seen:
                found = self._number(other, seen[other])
                # One that has not begun to count is not there yet, and is waited for elsewhere.
                still[other] = still[other] + 1 if found == seen[other] > 0 else 0
                seen[other] = found
            if lost := [other for other, ticks in still.items() if ticks >= TICKS]:
                self._give_up(lost)

    def _number(self, other: int, before: int) -> int:
        """The other's; that of before where the store does not answer."""
        try:
            self._store.add(f"alive/{self._rank}", 1)
            return self._store.add(f"alive/{other}", 0)
        except RuntimeError:
            return before

    def _give_up(self, lost: list[int]) -> None:
        """End this process, whose main thread may wait for ever.

        Nothing is lost by it that SIGKILL would not lose: every file of a run is whole at any instant.
        """
        if self._stopped.is_set():
            return
        try:
            if self._speak():
                names = ", ".join(str(rank + 1) for rank in lost)
                silence = f"has not answered for {TICKS * TICK:.0f} s"
                show_errors([f"process {names} of {self._count}: {silence}; run it again with --resume"])
        finally:
            os._exit(LOST)
