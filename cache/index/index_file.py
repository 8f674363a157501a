"""`IndexFile`: the key index of a recipe, mapped; of its bytes only those that are touched are read, and checked then.

It is derived: a reader that finds none, or one that does not fit the commit records, opens every segment instead.

Shapes: n keys held, m keys asked for.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np

from crossllm.cache.errors import CacheCorrupt, one_line
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import list_folder
from crossllm.cache.files.plain_file import PlainFile
from crossllm.cache.files.strict_json import parse_json
from crossllm.cache.index.layout import (
    FOOTER_MOST,
    INDEX_FORMAT,
    Block,
    Footer,
    SegmentTable,
    block_bytes,
    block_of,
)
from crossllm.cache.records.keys import ABSENT, prefixes

ENDING = struct.Struct("<II")
"""Bytes and crc32c of the footer, at the end of the file."""
MAKE_AGAIN = "make it again with `crossllm cache index`, or delete it"


class IndexFile:
    """A key index, open for reading; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Raise `CacheCorrupt` where it is damaged or of another format; its blocks are not read yet."""
        self.path = path
        self._file = PlainFile(path, path.stat().st_size)
        footer = self._footer()
        try:
            self._read(footer)
        except (KeyError, TypeError, ValueError) as error:
            raise CacheCorrupt(f"{path}: {one_line(error)}; {MAKE_AGAIN}") from None
        self._bytes = self._file.map()
        self._file.close()
        self._checked = np.zeros(len(self._blocks), bool)
        self._lock = Lock()

    def _footer(self) -> Footer:
        if self._file.size < ENDING.size:
            raise CacheCorrupt(f"{self.path}: {self._file.size} bytes are no index; {MAKE_AGAIN}")
        size, crc = ENDING.unpack(self._file.read(ENDING.size, self._file.size - ENDING.size))
        if size > min(FOOTER_MOST, self._file.size - ENDING.size):
            raise CacheCorrupt(f"{self.path}: a footer of {size} bytes; {MAKE_AGAIN}")
        data = self._file.read(size, self._file.size - ENDING.size - size)
        if fsio.crc32c(data) != crc:
            raise CacheCorrupt(f"{self.path}: the footer does not match its crc32c; {MAKE_AGAIN}")
        return parse_json(data, self.path)

    def _read(self, footer: Footer) -> None:
        if footer["format"] != INDEX_FORMAT:
            raise ValueError(f"index format {footer['format']}, this version reads {INDEX_FORMAT}")
        self.recipe = str(footer["recipe"])
        """Digest of the recipe."""
        self.distinct, self.rows = int(footer["distinct"]), int(footer["rows"])
        """Distinct keys, and the rows of these."""
        self._bits, self._wide = int(footer["bits"]), bool(footer["wide"])
        self.segments = SegmentTable.parse(self._part(footer["table"]), footer["segments"], footer["replaced"])
        self.starts = np.concatenate([[0], np.cumsum(self.segments.records)])
        """(S + 1,) number of each segment's first record."""
        self._blocks = np.frombuffer(self._part(footer["blocks"]), "<i8").reshape(-1, 3)
        ends = self._blocks[:, 0] + block_bytes(1, self._wide) * self._blocks[:, 1]
        if len(self._blocks) != 1 << self._bits or (ends > self._file.size).any() or (self._blocks < 0).any():
            raise ValueError("its blocks do not lie in it")
        if self._blocks[:, 1].sum() != self.starts[-1] or self.starts[-1] != footer["keys"]:
            raise ValueError("its keys are not those of its segments")

    def _part(self, place: list[int]) -> bytes:
        at, size, crc = place
        if not 0 <= at <= at + size <= self._file.size:
            raise ValueError("a part lies outside the file")
        data = self._file.read(size, at)
        if fsio.crc32c(data) != crc:
            raise ValueError("a part does not match its crc32c")
        return data

    def _block(self, number: int) -> Block:
        """A block, checked at its first touch."""
        at, count, crc = map(int, self._blocks[number])
        data = self._bytes[at : at + block_bytes(count, self._wide)]
        if not self._checked[number]:
            if fsio.crc32c(data) != crc:
                raise CacheCorrupt(f"{self.path}: block {number} does not match its crc32c; {MAKE_AGAIN}")
            with self._lock:
                self._checked[number] = True
        return Block.view(data, count, self._wide)

    def find_many(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the first records of m keys, (m, 32) uint8, `ABSENT` where there is none, and their rows; (m,)."""
        records, lengths = np.full(len(digests), ABSENT, np.int64), np.zeros(len(digests), np.int64)
        prefix = prefixes(digests)
        blocks = block_of(prefix, self._bits)
        order = np.argsort(prefix)
        cuts = np.flatnonzero(np.diff(blocks[order])) + 1
        for chosen in np.split(order, cuts) if len(order) else ():
            block = self._block(int(blocks[chosen[0]]))
            records[chosen], lengths[chosen] = _found(block, prefix[chosen], digests[chosen, 8:])
        return records, lengths

    def place(self, record: int) -> tuple[int, int]:
        """Segment of a record, and its index in there."""
        number = bisect_right(self.starts, record) - 1
        return number, record - int(self.starts[number])


def _found(block: Block, prefix: np.ndarray, tails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Records and rows of keys that are in one block or nowhere."""
    records, lengths = np.full(len(prefix), ABSENT, np.int64), np.zeros(len(prefix), np.int64)
    at = np.searchsorted(block.prefix, prefix)
    open_ = np.arange(len(prefix))
    while len(open_):  # once, but where keys share their first eight bytes
        open_ = open_[at[open_] < len(block.prefix)]
        open_ = open_[block.prefix[at[open_]] == prefix[open_]]
        same = (block.tail[at[open_]] == tails[open_]).all(1)
        done = open_[same]
        records[done], lengths[done] = block.record[at[done]], block.length[at[done]]
        open_ = open_[~same]
        at[open_] += 1
    return records, lengths


def index_paths(recipe_dir: Path) -> list[Path]:
    """The index files of a recipe, by name."""
    return [path for path in list_folder(recipe_dir / "index") if path.suffix == ".idx"]


def open_index(recipe_dir: Path, recipe: str, listed: set[str]) -> IndexFile | None:
    """The index of the most segments that are all among those `listed`; a damaged one is as none.

    Args:
        recipe_dir: the recipe's folder.
        recipe: its digest.
        listed: segments whose commit records are there.
    """
    found: list[IndexFile] = []
    for path in index_paths(recipe_dir):
        with suppress(CacheCorrupt, OSError):  # another process may be replacing it
            one = IndexFile(path)
            if one.recipe == recipe and listed.issuperset(one.segments.names):
                found.append(one)
    return max(found, key=lambda one: len(one.segments.names), default=None)
