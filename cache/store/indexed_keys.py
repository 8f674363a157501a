"""`IndexedKeys`: where the keys of a recipe are, by its index file and by the segments that came after it.

It stands where a `KeyIndex` stands, and a test holds each answer of both together.  Segments of the index are opened,
and checked as always, when rows of theirs are first wanted.  Shapes: m keys asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import overload

import numpy as np

from crossllm.cache.index.index_file import IndexFile
from crossllm.cache.records.keys import ABSENT
from crossllm.cache.store.key_index import KeyIndex
from crossllm.cache.store.segment import Segment

MOST_OPEN = 4096
"""Segments of the index that are kept open: each holds its small arrays, and a descriptor or a map."""


class IndexedSegments(Sequence[Segment]):
    """The segments of an index, then others; one of the index is opened when it is asked for.

    Raises, when one is asked for:
        CacheCorrupt: it is damaged.
        FileNotFoundError: its commit record is gone.
    """

    def __init__(self, names: Sequence[str], opened: Callable[[str], Segment], others: Sequence[Segment]) -> None:
        self._names, self._opened, self.others = names, opened, others
        self._kept: OrderedDict[str, Segment] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._names) + len(self.others)

    def name(self, number: int) -> str:
        """Of a segment, which stays closed."""
        return self._names[number] if number < len(self._names) else self.others[number - len(self._names)].name

    @overload
    def __getitem__(self, at: int) -> Segment: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Segment]: ...
    def __getitem__(self, at: int | slice) -> Segment | Sequence[Segment]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        number = at % len(self)
        if number >= len(self._names):
            return self.others[number - len(self._names)]
        name = self._names[number]
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._opened(name)
                if len(self._kept) > MOST_OPEN:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return self._kept[name]


class IndexedKeys:
    """The keys of an index file, and of segments that came later; a record's number counts through both."""

    def __init__(self, file: IndexFile, others: Sequence[Segment]) -> None:
        self._file = file
        self._later = KeyIndex(others)
        self._first_later = int(file.starts[-1])
        self._segments = len(file.segments.names)

    def find(self, key: bytes) -> int:
        """Number of the first record of a key, or `ABSENT`."""
        return int(self.find_many([key])[0])

    def find_many(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """(m,) what `find` says of each key; the keys as a sequence, or as (m, 32) uint8."""
        wanted = keys if isinstance(keys, np.ndarray) else np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
        records, _ = self._file.find_many(wanted)
        left = np.flatnonzero(records == ABSENT)
        later = self._later.find_many(wanted[left])
        records[left] = np.where(later == ABSENT, ABSENT, later + self._first_later)
        return records

    def place(self, record: int) -> tuple[int, int]:
        """Segment of a record, and its index in there."""
        if record < self._first_later:
            return self._file.place(record)
        number, index = self._later.place(record - self._first_later)
        return self._segments + number, index

    def length(self, key: bytes) -> int:
        """Rows of a key; `ABSENT` where there is none."""
        records, lengths = self._file.find_many(np.frombuffer(key, np.uint8).reshape(1, 32))
        return int(lengths[0]) if records[0] != ABSENT else self._later.length(key)

    @property
    def count(self) -> int:
        """Distinct keys."""
        return self._file.distinct + len(self._new_later())

    @property
    def residues(self) -> int:
        """Rows of all distinct keys."""
        return self._file.rows + int(self._later.lengths[self._new_later()].sum())

    def keys(self, segments: Sequence[Segment]) -> Iterator[bytes]:
        """Distinct keys in the order of the segments, which are opened one after the other."""
        for number in range(self._segments):
            digest, start = segments[number].digest, int(self._file.starts[number])
            records, _ = self._file.find_many(digest)
            yield from map(bytes, digest[records == np.arange(start, start + len(digest))])
        yield from map(bytes, self._later.digest[self._new_later()])

    def _new_later(self) -> np.ndarray:
        """Records of later segments whose keys stand in no earlier one, rising."""
        firsts = self._later.firsts
        found: np.ndarray = firsts[self._file.find_many(self._later.digest[firsts])[0] == ABSENT]
        return found
