"""`--ack-fd`: whoever started a run is told which records are committed, so that it need not trust an exit code."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence

from cache.console import note
from cache.errors import InputError

_LINE = 65
"""A key in hex and a newline."""


class Acknowledger:
    """Writes the keys of committed records to an open descriptor, whole lines at a time.

    A reader that has gone away, or a file that cannot grow, does not stop the work: it is said once, and no more
    keys are written.  What was not acknowledged may still be committed, never the other way round.
    """

    def __init__(self, descriptor: int) -> None:
        """Raise `InputError` for a descriptor that is not open for writing; nothing is written yet."""
        self._descriptor: int | None = descriptor
        # Up to PIPE_BUF bytes arrive in one piece, so that several runs can share a pipe.
        self._at_once = max(1, getattr(select, "PIPE_BUF", 512) // _LINE)
        try:
            os.write(descriptor, b"")
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            raise InputError(
                f"--ack-fd: descriptor {descriptor} is not open for writing; open it, e.g. `{descriptor}>acks.txt`"
            ) from None

    def __call__(self, keys: Sequence[bytes]) -> None:
        """Acknowledge records that are committed and on disk."""
        for start in range(0, len(keys), self._at_once):
            if self._descriptor is None:
                return
            lines = b"".join(key.hex().encode() + b"\n" for key in keys[start : start + self._at_once])
            try:
                _write_all(self._descriptor, lines)
            except OSError as error:
                note(f"note: --ack-fd {self._descriptor}: {error.strerror}; the run goes on, no more keys are written")
                self._descriptor = None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
