"""`Records`, what a file held, and `RecordList`: its records in flat memory, some 80 bytes and the id for each.

Keys, ids and lengths lie in arrays; the sequences in a file without a name once they are more than a few MiB.  A
`Record` is made when it is asked for.  Shapes: n records of the list.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import IO, NamedTuple, overload

import numpy as np

from crossllm.cache.errors import Problem
from crossllm.cache.files import fsio
from crossllm.cache.records.id_list import IdList
from crossllm.cache.records.keys import ABSENT, Keys
from crossllm.cache.records.record import Record

IN_MEMORY = 8 << 20
"""Bytes of sequences beyond which they go to a temporary file."""
_AT_ONCE = 1 << 20


class _Store:
    """What the lists of one file share; appended to, then only read, by any number of threads."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self.ids = IdList()
        self.keys = bytearray()
        self.lengths = array("q")
        self._ends = array("q", [0])
        self._memory = bytearray()
        """All sequences, or those on their way into the file."""
        self._lock = Lock()

    def append(self, record: Record) -> None:
        self.ids.append(record.id)
        self.keys += record.key
        self.lengths.append(record.length)
        self._memory += record.sequence.encode("ascii")
        self._ends.append(self._ends[-1] + len(record.sequence))
        if len(self._memory) >= (IN_MEMORY if self._file is None else _AT_ONCE):
            self._write()

    def flush(self) -> None:
        """After this the store is only read."""
        if self._file is not None:
            self._write()

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = fsio.unnamed_file()
            with memoryview(self._memory) as sequences:
                written = 0
                while written < len(sequences):
                    written += self._file.write(sequences[written:])
        except OSError as error:
            error.filename = f"{tempfile.gettempdir()} (TMPDIR)"
            raise
        self._memory.clear()

    def __getitem__(self, n: int) -> Record:
        start, stop = self._ends[n], self._ends[n + 1]
        sequence = self._memory[start:stop] if self._file is None else self._read(self._file, start, stop)
        return Record(bytes(self.keys[32 * n : 32 * n + 32]), self.ids[n], sequence.decode("ascii"), self.lengths[n])

    def _read(self, file: IO[bytes], start: int, stop: int) -> bytes:
        if hasattr(os, "pread"):  # the offset of a file is shared with children and other threads
            return os.pread(file.fileno(), stop - start, start)
        with self._lock:
            file.seek(start)
            return file.read(stop - start)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


class RecordList(Sequence[Record]):
    """Records in a compact form, or a choice of another list's, which share what they are made of.

    records = RecordList.of(found)
    long = records.take(np.flatnonzero(records.lengths > 1022))
    """

    def __init__(self, store: _Store, places: np.ndarray) -> None:
        self._store, self._places = store, places

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordList:
        """The same records, as a list; read once, and never all in memory."""
        if isinstance(records, cls):
            return records
        store = _Store()
        for record in records:
            store.append(record)
        store.flush()
        return cls(store, np.arange(len(store.ids)))

    def take(self, chosen: np.ndarray) -> RecordList:
        """The records at these places of this list, (m,) integers."""
        return RecordList(self._store, self._places[chosen])

    @property
    def keys(self) -> np.ndarray:
        """(n, 32) uint8, read-only."""
        return self._chosen(np.frombuffer(self._store.keys, np.uint8).reshape(-1, 32))

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 residues, nucleotides or atoms of each record, read-only."""
        return self._chosen(np.frombuffer(self._store.lengths, np.int64))

    def ids(self) -> Iterator[str]:
        """The id of each record; its sequence is not read."""
        return (self._store.ids[int(place)] for place in self._places)

    def repeated_ids(self) -> Iterator[tuple[int, int]]:
        """`(place, place of the first)` of every record whose id stands further up; of a whole list, in no order."""
        return self._store.ids.repeats()

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> RecordList: ...
    def __getitem__(self, at: int | slice) -> Record | RecordList:
        if isinstance(at, slice):
            return RecordList(self._store, self._places[at])
        return self._store[int(self._places[at])]

    def __iter__(self) -> Iterator[Record]:
        return (self._store[int(place)] for place in self._places)

    def __eq__(self, other: object) -> bool:
        """Like a list's, to lists as well."""
        if not isinstance(other, RecordList | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _chosen(self, values: np.ndarray) -> np.ndarray:
        found: np.ndarray = values[self._places]
        found.flags.writeable = False
        return found


class Distinct(Mapping[bytes, Record]):
    """Key → the first record of each distinct sequence, in the order of the file."""

    def __init__(self, records: Iterable[Record]) -> None:
        given = RecordList.of(records)
        keys = Keys(given.keys)
        if len(keys.firsts) < len(given):
            given = given.take(keys.firsts)
            keys = Keys(given.keys)
        self.records, self._keys = given, keys
        self.digests = keys.digest
        """(n, 32) the keys, uint8."""
        self.lengths = given.lengths
        """(n,) int64 residues, nucleotides or atoms of each."""

    def find(self, key: bytes) -> int:
        """Place of a key among the distinct ones, or `crossllm.cache.records.keys.ABSENT`."""
        return self._keys.find(key)

    def find_many(self, digests: np.ndarray) -> np.ndarray:
        """(m,) what `find` says of each of m keys, (m, 32) uint8."""
        return self._keys.find_many(digests)

    def __getitem__(self, key: bytes) -> Record:
        if (place := self.find(key)) == ABSENT:
            raise KeyError(key)
        return self.records[place]

    def __iter__(self) -> Iterator[bytes]:
        return (key.tobytes() for key in self.records.keys)

    def __len__(self) -> int:
        return len(self.records)


class Records(NamedTuple):
    """What a file held: its good records in file order, and everything that was changed or left out, counted."""

    modality: str
    records: Sequence[Record]
    """A `RecordList` where a file was read: a million records are never in memory together."""
    notes: Counter[str]
    """What was normalised or merged → how often."""
    skipped: list[Problem]
    """Bad records, left out under `--on-bad skip`."""

    def distinct(self) -> Distinct:
        """Key → the first record of each distinct sequence, in file order."""
        return Distinct(self.records)
