"""Acknowledging a key of several recipes: once, when the last of them has committed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock


class JointAck:
    """Counts the recipes that have yet to commit a key; each recipe's writer tells from a thread of its own."""

    def __init__(self, acknowledge: Callable[[Sequence[bytes]], None]) -> None:
        """`acknowledge` is never called by two threads at once."""
        self._acknowledge = acknowledge
        self._left: dict[bytes, int] = {}
        """Key → recipes that have not committed it."""
        self._counting, self._telling = Lock(), Lock()

    def expect(self, key: bytes, recipes: int) -> None:
        """Call before the key is handed to the first of so many writers."""
        with self._counting:
            self._left[key] = recipes

    def forget(self, key: bytes) -> None:
        """One recipe has refused the key's rows: it is never acknowledged."""
        with self._counting:
            self._left.pop(key, None)

    def committed(self, keys: Sequence[bytes]) -> None:
        """One recipe has committed these keys."""
        with self._counting:
            expected = [key for key in keys if key in self._left]
            for key in expected:
                self._left[key] -= 1
            done = [key for key in expected if not self._left[key]]
            for key in done:
                del self._left[key]
        if done:
            with self._telling:  # a reader that is slow holds up the writers that have something to tell
                self._acknowledge(done)
