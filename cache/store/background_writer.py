"""`BackgroundWriter`: rows are written by a thread, so that the encoder does not wait for checksums and the disk.

docs/design/0006 says why one thread, why bytes are counted, and what the fault tests drive.
"""

from __future__ import annotations

from collections import deque
from threading import Condition, Thread
from types import TracebackType
from typing import Self

import numpy as np

from crossllm.cache.store.writer import CacheWriter

WRITE_AHEAD = 64 << 20
"""Bytes of rows that may wait for the disk."""
_TOGETHER = 1 << 20
"""Bytes of small records that are written in one go: after each system call the thread waits for the interpreter."""
_Record = tuple[bytes, np.ndarray]


class BackgroundWriter:
    """Hands rows to a `CacheWriter` in a thread of its own; left as a `CacheWriter` is: committed, or abandoned.

    What the thread raises is raised by the next `add`, or at the end.  All file operations come from one thread at a
    time and in the order of the records.

    Args:
        writer: not entered; only the thread may touch it until the end.
        ahead: bytes of rows that `add` leaves waiting; 0: each record is written before `add` returns.
    """

    def __init__(self, writer: CacheWriter, ahead: int = WRITE_AHEAD) -> None:
        self._writer, self._ahead = writer, ahead
        self._changed = Condition()
        self._queue: deque[_Record] = deque()
        self._waiting = 0
        """Bytes of rows not yet written, those that are being written too."""
        self._closing = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name="cache-writer", daemon=True)

    def add(self, key: bytes, rows: np.ndarray) -> None:
        """Store the rows of one record, (L, D); a copy is taken.  Waits while more than `ahead` bytes are not written.

        Raises:
            RowsRefused: as `CacheWriter.add` does, at once.
            OSError: an earlier record could not be written.
        """
        stored = self._writer.checked(rows)
        if stored is rows or stored.base is not None:  # the encoder's own memory, which it may use again
            stored = np.array(stored)
        with self._changed:
            self._queue.append((key, stored))
            self._waiting += _size(self._queue[-1])
            self._changed.notify_all()
            while self._waiting > self._ahead and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        with self._changed:
            self._closing = True
            if kind is not None:
                self._queue.clear()
            self._changed.notify_all()
        self._thread.join()
        failed = self._error if kind is None else None
        self._writer.__exit__(kind if failed is None else type(failed), failed or e, t)
        if failed is not None:
            raise failed

    def _work(self) -> None:
        try:
            while (found := self._next()) is not None:
                if found:
                    self._writer.put(found)
                else:
                    self._writer.commit()
                with self._changed:
                    self._waiting -= sum(map(_size, found))
                    self._changed.notify_all()
        except BaseException as error:  # raised again in the thread that hands over
            with self._changed:
                self._error = error
                self._queue.clear()
                self._changed.notify_all()

    def _next(self) -> list[_Record] | None:
        """The next records; none where the open segment has been open for long enough; None at the end."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                left = self._writer.seconds_left()
                if left is not None and left <= 0:
                    return []
                self._changed.wait(left)
            found = [self._queue.popleft()]
            size = _size(found[0])
            while self._queue and (size := size + _size(self._queue[0])) <= _TOGETHER:
                found.append(self._queue.popleft())
            return found


def _size(record: _Record) -> int:
    """Bytes that a waiting record takes: its rows, and about what Python needs around them."""
    return record[1].nbytes + 512
