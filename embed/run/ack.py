"""`--ack-fd`: whoever started a run is told which records are committed, so that it need not trust an exit code."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress

from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError

_LINE = 65
"""A key in hex and a newline."""
_PATIENCE = 1000
"""Milliseconds between two looks at whether the run was asked to stop."""


class Acknowledger:
    """Writes the keys of committed records to an open descriptor, whole lines at a time.

    A reader that has gone away, or a file that cannot grow, does not stop the work: it is said once, and no more
    keys are written.  What was not acknowledged may still be committed, never the other way round.
    """

    def __init__(self, descriptor: int) -> None:
        """Raise `InputError` for a descriptor that is not open for writing; nothing is written yet."""
        self._descriptor: int | None = descriptor
        self.stopping: Callable[[], bool] = lambda: False
        """Whether the run was asked to stop: a reader that does not read is no longer waited for then."""
        # Up to PIPE_BUF bytes arrive in one piece, so that several runs can share a pipe.
        self._at_once = max(1, getattr(select, "PIPE_BUF", 512) // _LINE)
        try:
            os.write(descriptor, b"")
        except OSError as error:
            if error.errno == errno.EBADF:
                raise InputError(
                    f"--ack-fd: descriptor {descriptor} is not open for writing; open it, e.g. `{descriptor}>acks.txt`"
                ) from None
            self._give_up(error)

    def __call__(self, keys: Sequence[bytes]) -> None:
        """Acknowledge records that are committed and on disk."""
        for start in range(0, len(keys), self._at_once):
            if self._descriptor is None:
                return
            lines = b"".join(key.hex().encode() + b"\n" for key in keys[start : start + self._at_once])
            try:
                self._write_all(self._descriptor, lines)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        note(f"note: --ack-fd {self._descriptor}: {error.strerror}; the run goes on, no more keys are written")
        self._descriptor = None

    def _write_all(self, descriptor: int, data: bytes) -> None:
        view, ready = memoryview(data), select.poll()
        ready.register(descriptor, select.POLLOUT)
        while len(view):
            if not ready.poll(_PATIENCE) and self.stopping():
                raise OSError(errno.EAGAIN, "nobody reads it, and the run was asked to stop")
            with suppress(BlockingIOError):
                view = view[os.write(descriptor, view) :] if ready.poll(0) else view
