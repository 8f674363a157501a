"""`HeldFile`: the part of an object that lies on this machine, and the fetching of what does not yet.

A sparse file as large as the object, and beside it a map with a byte for each grain of it: 1 where the grain was
fetched.  Several processes share both.  The map is a hint: whoever uses the bytes checks them, and calls `renew` where
they are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock

import numpy as np

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.remote import local
from crossllm.cache.remote.local import LetGo
from crossllm.cache.remote.objects import Objects

GRAIN = 256 << 10
"""Bytes that are fetched and kept together."""
_GAP = 4
"""Grains that lie between two wanted ones and are fetched with them: a request costs more than a MiB of them."""
_RANGE = 32
"""Most grains of one request."""
_TOGETHER = 8
"""Requests at once; what they bring, 64 MiB, is in memory for a moment."""
MAP = ".held"
_STAMP_SECONDS = 60.0


class HeldFile:
    """One object, as far as it was fetched."""

    def __init__(
        self, objects: Objects, name: str, segment: Path, path: Path, size: int, take: Callable[[int], None]
    ) -> None:
        """`name`: of the object; `segment`: the folder of the map; `take`: makes room for so many bytes."""
        self.path, self.size = path, size
        self._objects, self._name, self._take = objects, name, take
        self._lock, self._counting = RLock(), Lock()
        self._users = 0
        self._file = local.SparseFile(path, size)
        self._map_path = segment / MAP
        self._map = local.SparseFile(self._map_path, -(-size // GRAIN))
        self._here = self._map.map()
        self._stamped = -_STAMP_SECONDS
        self.when_closed: Callable[[], object] = lambda: None
        """Drops the maps of the file, without which its space is not free."""

    def ensure(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Have the bytes `start` to `stop` of each range here.

        Raises:
            LetGo: the file was evicted meanwhile.
            CacheCorrupt: the object is not there, or ends before a range does.
            OSError: the store does not answer, or the disk is full.
        """
        self._stamp()
        if all(self._here[start // GRAIN : -(-stop // GRAIN)].all() for start, stop in ranges):
            return
        with self.in_use(), self._lock:
            runs = self._missing(ranges)
            for n in range(0, len(runs), _TOGETHER):
                self._fetch(runs[n : n + _TOGETHER])

    def read(self, count: int, at: int) -> bytes:
        """`count` bytes from place `at` on, fetched where they are not here."""
        with self.in_use():
            self.ensure([(at, at + count)])
            return self._file.read(count, at)

    def renew(self, start: int, stop: int) -> None:
        """Fetch a range again: what is held of it is wrong."""
        with self.in_use(), self._lock:
            self._here[start // GRAIN : -(-stop // GRAIN)] = 0
            self.ensure([(start, stop)])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, this process does not close the file, and so does not evict it.

        Raises:
            LetGo: it was evicted before.
        """
        with self._counting:
            if not self._users and self._file.removed:
                raise LetGo
            self._users += 1
        try:
            yield
        finally:
            with self._counting:
                self._users -= 1

    def close(self) -> bool:
        """Give back the space that the file takes when it has no name any more; False where it is in use now."""
        with self._counting:
            if self._users:
                return False
            self._file.close()
        self.when_closed()
        return True

    @property
    def removed(self) -> bool:
        """Whether it was evicted."""
        return self._file.removed

    def forget(self) -> None:
        """Take nothing that is here for true any more."""
        self._here[:] = 0

    def _missing(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Runs of grains to fetch, each of at most `_RANGE`; small gaps between two are fetched as well."""
        wanted = np.unique(np.concatenate([np.arange(a // GRAIN, -(-b // GRAIN)) for a, b in ranges]))
        missing = wanted[self._here[wanted] == 0]
        if not len(missing):
            return []
        cuts = np.flatnonzero(np.diff(missing) > _GAP + 1) + 1
        runs = []
        for run in np.split(missing, cuts):
            first, stop = int(run[0]), int(run[-1]) + 1
            runs += [(at, min(at + _RANGE, stop)) for at in range(first, stop, _RANGE)]
        return runs

    def _fetch(self, runs: Sequence[tuple[int, int]]) -> None:
        places = [(first * GRAIN, min(stop * GRAIN, self.size)) for first, stop in runs]
        self._take(sum(stop - start for start, stop in places))
        try:
            pieces = self._objects.get_ranges(self._name, places)
        except FileNotFoundError:
            raise CacheCorrupt(f"{self._objects.url(self._name)}: missing, though its commit record names it") from None
        except EOFError:
            raise CacheCorrupt(
                f"{self._objects.url(self._name)}: ends before the {self.size} bytes of its commit record"
            ) from None
        for piece, (at, _), (first, stop) in zip(pieces, places, runs, strict=True):
            self._file.write(piece, at)
            self._here[first:stop] = 1

    def _stamp(self) -> None:
        """Note the use, now and then: what was used longest ago is evicted first."""
        now = time.monotonic()
        if now - self._stamped >= _STAMP_SECONDS:
            self._stamped = now
            local.touch(self._map_path)


def mark_whole(segment: Path, size: int) -> None:
    """Note that all of a segment's rows are here, as they are where they were written."""
    local.keep(segment / MAP, b"\1" * -(-size // GRAIN))
