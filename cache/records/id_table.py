"""The `records/` table: which id stands for which key.  `train` takes keys from here and never normalises.

`records/<modality>-<32 hex>.tsv`, columns `id key length normaliser`; the hex digits are the start of the SHA-256 of
the file's bytes, so the same records published twice are one file and a damaged table is found when it is read.
"""

from __future__ import annotations

import hashlib
import io
import re
from array import array
from bisect import bisect_right
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.errors import CacheCorrupt, Conflict, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import list_folder
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.records.id_list import IdList
from crossllm.cache.records.keys import ABSENT
from crossllm.cache.records.record import NORMALISER, Record, check_id
from crossllm.cache.records.record_list import RecordList
from crossllm.cache.remote.by_path import publish

_HEADER = "id\tkey\tlength\tnormaliser\n"
_NAME = re.compile(r"(rna|protein|molecule)-([0-9a-f]{32})\.tsv")
_MAX_BYTES = 1 << 32
_IDS_AT_ONCE = 1 << 16
_AT_ONCE = 1 << 20
"""Bytes of lines that are written together."""


class Entry(NamedTuple):
    """What the table says of one id."""

    key: bytes
    length: int
    """Nucleotides, residues or atoms."""


class Table(Mapping[str, Entry]):
    """Id → `Entry`, in the order of the tables; a million of them take some 100 MB."""

    def __init__(self) -> None:
        self._ids, self._keys, self._lengths = IdList(), bytearray(), array("q")
        self._files: list[tuple[int, Path]] = []
        """Place of the first id of each file."""
        self._repeated: set[int] = set()
        """Places of ids that stand in an earlier table as well, with the same entry."""

    def add(self, path: Path, data: bytes) -> None:
        """Add what a file of the table says; `validated_records` follows the last.

        Raises:
            CacheCorrupt: it is no table.
        """
        self._files.append((len(self._ids), path))
        try:
            self._parse(data)
        except ValueError as error:
            raise CacheCorrupt(f"{path}: {error}; not a table of records") from None

    def validated_records(self) -> None:
        """Find the ids that stand in several files: once for all, as each look sorts every id.

        Raises:
            CacheCorrupt: two files disagree on one.
        """
        for place, first in self._ids.repeats():
            self._repeated.add(place)
            if self._entry(place) != self._entry(first):
                path = self._files[bisect_right(self._files, place, key=itemgetter(0)) - 1][1]
                id_ = printable(self._ids[place])
                raise CacheCorrupt(f"{path}: id '{id_}' has another sequence in another table; delete one")

    def _parse(self, data: bytes) -> None:
        lines = io.BytesIO(data)
        if lines.readline() != _HEADER.encode() or not data.endswith(b"\n"):
            raise ValueError("no header line, or no newline at the end")
        for line in lines:
            id_, key, length, _ = line.decode().split("\t")
            digest, rows = bytes.fromhex(key), int(length)
            if len(digest) != 32 or not 1 <= rows < 1 << 63:
                raise ValueError("a key or length is out of range")
            self._ids.append(id_)
            self._keys += digest
            self._lengths.append(rows)

    def compare(self, ids: Sequence[str], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of m ids stand here for their key of (m, 32) uint8, and which for another; (m,) bool each."""
        places = self._ids.find_many(ids)
        held = np.flatnonzero(places != ABSENT)
        same, other = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        own = np.frombuffer(self._keys, np.uint8).reshape(-1, 32)[places[held]]
        same[held] = (own == keys[held]).all(1)
        other[held] = ~same[held]
        return same, other

    def _entry(self, place: int) -> Entry:
        return Entry(bytes(self._keys[32 * place : 32 * place + 32]), self._lengths[place])

    def __getitem__(self, id_: str) -> Entry:
        if (place := self._ids.find(id_)) == ABSENT:
            raise KeyError(id_)
        return self._entry(place)

    def __iter__(self) -> Iterator[str]:
        return (id_ for id_, _ in self.items())

    def __len__(self) -> int:
        return len(self._ids) - len(self._repeated)

    def items(self) -> ItemsView[str, Entry]:
        """Ids with their entries."""
        return _Items(self)

    def values(self) -> ValuesView[Entry]:
        """The entries alone."""
        return _Values(self)

    def pairs(self) -> Iterator[tuple[str, Entry]]:
        """The same, one after the other: nothing is looked up."""
        places = (place for place in range(len(self._ids)) if place not in self._repeated)
        return ((self._ids[place], self._entry(place)) for place in places)


class _Items(ItemsView[str, Entry]):
    _mapping: Table

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return self._mapping.pairs()


class _Values(ValuesView[Entry]):
    _mapping: Table

    def __iter__(self) -> Iterator[Entry]:
        return (entry for _, entry in self._mapping.pairs())


def publish_table(cache_dir: Path, modality: str, records: Sequence[Record]) -> None:
    """Add records to the cache's table, published like a commit; ids already there with the same key are left out.

    Raises:
        Conflict: an id already stands for another sequence in this cache.
    """
    new = new_rows(cache_dir, modality, records)
    if new.any():
        digest = hashlib.sha256()
        for lines in _lines(records, new):
            digest.update(lines)
        folder = cache_dir / "records"
        fsio.make_dirs(folder)
        publish(folder / f"{modality}-{digest.hexdigest()[:32]}.tsv", _lines(records, new))


def new_rows(cache_dir: Path, modality: str, records: Sequence[Record]) -> np.ndarray:
    """Which of n records the cache does not list yet, (n,) bool; nothing is written.

    Raises:
        InputError: an id could not be read back from a table.
        Conflict: an id already stands for another sequence in this cache.
    """
    known = read_table(cache_dir, modality)
    for record in () if isinstance(records, RecordList) else records:  # before it is encoded for a list
        check_id(record.id)
    given = RecordList.of(records)
    new = np.ones(len(given), bool)
    conflicts: list[str] = []
    for start in range(0, len(given), _IDS_AT_ONCE):
        part = given[start : start + _IDS_AT_ONCE]
        ids = [*part.ids()]
        for id_ in ids:
            check_id(id_)
        same, other = known.compare(ids, part.keys)
        new[start : start + len(ids)] = ~(same | other)
        conflicts += (
            f"{cache_dir}: {modality} id '{printable(ids[n])}' already stands for another sequence here; "
            "rename the record or use another --cache"
            for n in np.flatnonzero(other).tolist()
        )
    if conflicts:
        raise Conflict(conflicts)
    return new


def _lines(records: Sequence[Record], new: np.ndarray) -> Iterator[bytes]:
    """A table of the records chosen by `new`, (n,) bool, in pieces."""
    piece = bytearray(_HEADER.encode())
    chosen = RecordList.of(records).take(np.flatnonzero(new))
    for id_, key, length in zip(chosen.ids(), chosen.keys, chosen.lengths.tolist(), strict=True):
        piece += f"{id_}\t{key.tobytes().hex()}\t{length}\t{NORMALISER}\n".encode()
        if len(piece) >= _AT_ONCE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def read_table(cache_dir: Path, modality: str) -> Table:
    """Id → `Entry` over all published tables of a modality; empty when there is none.

    Raises:
        CacheCorrupt: a table's bytes are not what its name says, or two tables disagree on an id.
    """
    table = Table()
    folder = cache_dir / "records"
    for name in (path.name for path in list_folder(folder)):
        match = _NAME.fullmatch(name)
        if match is None or match[1] != modality:
            continue
        data = read_bytes(folder / name, _MAX_BYTES)
        if hashlib.sha256(data).hexdigest()[:32] != match[2]:
            raise CacheCorrupt(f"{folder / name}: its bytes are not what its name says; delete it and run again")
        table.add(folder / name, data)
    table.validated_records()
    return table
