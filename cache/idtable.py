"""The `records/` table: which id stands for which key.  `train` takes keys from here and never normalises.

`records/<modality>-<32 hex>.tsv`, columns `id key length normaliser`; the hex digits are the start of the SHA-256 of
the file's bytes, so the same records published twice are one file and a damaged table is found when it is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cache import fsio
from cache.errors import CacheCorrupt, Conflict, printable
from cache.plainfile import read_bytes
from cache.records import NORMALISER, Record
from cache.trust import list_folder

_HEADER = "id\tkey\tlength\tnormaliser\n"
_NAME = re.compile(r"(rna|protein|molecule)-([0-9a-f]{32})\.tsv")
_MAX_BYTES = 1 << 32


class Entry(NamedTuple):
    """What the table says of one id."""

    key: bytes
    length: int
    """Rows: nucleotides, residues or atoms."""


def publish_table(cache_dir: Path, modality: str, records: Iterable[Record]) -> None:
    """Add records to the cache's table, published like a commit; ids already there with the same key are left out.

    Raises:
        Conflict: an id already stands for another sequence in this cache.
    """
    new = new_rows(cache_dir, modality, records)
    if new:
        data = (_HEADER + "".join(new)).encode()
        folder = cache_dir / "records"
        fsio.make_dirs(folder)
        fsio.publish(folder / f"{modality}-{hashlib.sha256(data).hexdigest()[:32]}.tsv", data)


def new_rows(cache_dir: Path, modality: str, records: Iterable[Record]) -> list[str]:
    """The table's lines for those records that the cache does not list yet; nothing is written.

    Raises:
        Conflict: an id already stands for another sequence in this cache.
    """
    known = read_table(cache_dir, modality)
    new: list[str] = []
    conflicts: list[str] = []
    for record in records:
        entry = known.get(record.id)
        if entry is None:
            new.append(f"{record.id}\t{record.key.hex()}\t{record.length}\t{NORMALISER}\n")
        elif entry.key != record.key:
            conflicts.append(
                f"{cache_dir}: {modality} id '{printable(record.id)}' already stands for another sequence here; "
                "rename the record or use another --cache"
            )
    if conflicts:
        raise Conflict(conflicts)
    return new


def read_table(cache_dir: Path, modality: str) -> dict[str, Entry]:
    """Id → `Entry` over all published tables of a modality; empty when there is none.

    Raises:
        CacheCorrupt: a table's bytes are not what its name says, or two tables disagree on an id.
    """
    entries: dict[str, Entry] = {}
    folder = cache_dir / "records"
    for name in (path.name for path in list_folder(folder)):
        match = _NAME.fullmatch(name)
        if match is None or match[1] != modality:
            continue
        data = read_bytes(folder / name, _MAX_BYTES)
        if hashlib.sha256(data).hexdigest()[:32] != match[2]:
            raise CacheCorrupt(f"{folder / name}: its bytes are not what its name says; delete it and run again")
        for id_, entry in _parse(folder / name, data):
            if entries.setdefault(id_, entry) != entry:
                raise CacheCorrupt(
                    f"{folder / name}: id '{printable(id_)}' has another sequence in another table; delete one"
                )
    return entries


def _parse(path: Path, data: bytes) -> list[tuple[str, Entry]]:
    try:
        header, *lines, end = data.decode().split("\n")
        if header + "\n" != _HEADER or end:
            raise ValueError("no header line, or no newline at the end")
        cells = [line.split("\t") for line in lines]
        found = [(id_, Entry(bytes.fromhex(key), int(length))) for id_, key, length, _ in cells]
        if any(len(entry.key) != 32 or entry.length < 1 for _, entry in found):
            raise ValueError("a key or length is out of range")
    except ValueError as error:
        raise CacheCorrupt(f"{path}: {error}; not a table of records") from None
    return found
