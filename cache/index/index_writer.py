"""`write_index`: the keys of many segments, sorted, into one file; never more than a few million of them in memory.

Runs of keys are sorted and put into a temporary file (TMPDIR, 48 bytes a key); then each block takes its part of all
runs.  Shapes: n keys of a segment, m keys of a run or block.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from crossllm.cache.files import fsio
from crossllm.cache.index.index_file import ENDING
from crossllm.cache.index.layout import BLOCK_KEYS, INDEX_FORMAT, LAYOUTS, TAIL, Block, SegmentTable
from crossllm.cache.records.keys import prefixes
from crossllm.cache.remote.by_path import publish_large

RUN_KEYS = 1 << 21
"""Keys that are sorted at once, some 100 MB."""
_SPARSE = 1024
"""Of so many keys of a run one stays in memory, to find a block's part of it."""
_KEY = np.dtype([("prefix", "<u8"), ("record", "<i8"), ("length", "<i8"), ("tail", "u1", (TAIL,))])


class Indexed(NamedTuple):
    """What the index takes of one segment."""

    name: str
    digest: np.ndarray
    """(n, 32) keys, uint8."""
    lengths: np.ndarray
    """(n,) rows of each."""
    bytes: int
    """Of all its files."""
    layout: tuple[str, str | None]
    supersedes: tuple[str, ...]


class Written(NamedTuple):
    """An index that was made."""

    path: Path
    segments: int
    keys: int
    distinct: int
    bytes: int


class _Run(NamedTuple):
    """A sorted run of keys in the temporary file."""

    at: int
    size: int
    sparse: np.ndarray
    """Every `_SPARSE`th prefix."""


class _Runs:
    """Keys on their way: runs in a file without a name."""

    def __init__(self) -> None:
        self._file: IO[bytes] = fsio.unnamed_file()
        self._waiting: list[np.ndarray] = []
        self._held = 0
        self._runs: list[_Run] = []
        self.keys = self.longest = 0

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, digest: np.ndarray, lengths: np.ndarray) -> None:
        """Add the keys of the next segment."""
        keys = np.empty(len(digest), _KEY)
        keys["prefix"], keys["tail"] = prefixes(digest), digest[:, 8:]
        keys["record"], keys["length"] = np.arange(self.keys, self.keys + len(digest)), lengths
        self.keys, self.longest = self.keys + len(digest), max(self.longest, int(lengths.max()))
        self._waiting.append(keys)
        self._held += len(keys)
        if self._held >= RUN_KEYS:
            self.flush()

    def flush(self) -> None:
        """Sort what waits, and put it into the file."""
        if not self._waiting:
            return
        run = np.concatenate(self._waiting)
        self._waiting, self._held = [], 0
        run = run[np.argsort(run["prefix"], kind="stable")]
        self._runs.append(_Run(self._file.tell(), len(run), np.array(run["prefix"][::_SPARSE])))
        data = memoryview(run.view(np.uint8))  # type: ignore[arg-type]
        while len(data):
            data = data[self._file.write(data) :]

    def between(self, low: int, last: int) -> np.ndarray:
        """The keys whose prefixes are `low` to `last`, in their order, and of equal keys in that of the records."""
        parts = []
        for run in self._runs:
            first = max(0, int(np.searchsorted(run.sparse, np.uint64(low))) - 1) * _SPARSE
            stop = min(run.size, int(np.searchsorted(run.sparse, np.uint64(last), "right")) * _SPARSE)
            self._file.seek(run.at + first * _KEY.itemsize)
            part = np.frombuffer(_read(self._file, max(0, stop - first) * _KEY.itemsize), _KEY)
            parts.append(part[(part["prefix"] >= np.uint64(low)) & (part["prefix"] <= np.uint64(last))])
        return _by_key(np.concatenate(parts or [np.empty(0, _KEY)]))


def _read(file: IO[bytes], size: int) -> bytes:
    """So many bytes; one call may give fewer."""
    data = bytearray()
    while len(data) < size:
        data += file.read(size - len(data))
    return bytes(data)


def _by_key(keys: np.ndarray) -> np.ndarray:
    found = keys[np.argsort(keys["prefix"], kind="stable")]
    if (found["prefix"][1:] == found["prefix"][:-1]).any():  # a key that stands twice, or two that begin alike
        words = np.ascontiguousarray(found["tail"]).view(">u8")
        found = found[np.lexsort((found["record"], *words.T[::-1], found["prefix"]))]
    return found


def write_index(recipe_dir: Path, recipe: str, segments: Iterable[Indexed]) -> Written:
    """Make the index of these segments, whose names rise, and publish it; older ones stay.

    Args:
        recipe_dir: the recipe's folder.
        recipe: its digest.
        segments: at least one; read once.

    Raises:
        OSError: the disk, or the temporary folder, has not the space.
    """
    columns: list[tuple[str, int, int, int]] = []
    replaced: set[str] = set()
    with _Runs() as runs:
        for segment in segments:
            runs.add(segment.digest, segment.lengths)
            columns.append((segment.name, len(segment.digest), segment.bytes, LAYOUTS.index(segment.layout)))
            replaced.update(segment.supersedes)
        runs.flush()
        names, *numbers = zip(*columns, strict=True)
        table = SegmentTable(list(names), sorted(replaced), *(np.array(column, np.int64) for column in numbers))
        folder = recipe_dir / "index"
        fsio.make_dirs(folder)
        path = folder / f"{fsio.new_name()}.idx"
        pieces = _Pieces(runs, table, recipe)
        publish_large(path, pieces)
        return Written(path, len(names), runs.keys, pieces.distinct, pieces.at)


class _Pieces:
    """The bytes of the file, from front to back."""

    def __init__(self, runs: _Runs, table: SegmentTable, recipe: str) -> None:
        self._runs, self._table, self._recipe = runs, table, recipe
        self.at = self.distinct = self._rows = 0

    def __iter__(self) -> Iterator[bytes]:
        """The table, the blocks, where they are, the footer; each piece is counted in `at` before it is given."""
        bits = max(0, (self._runs.keys // BLOCK_KEYS).bit_length())
        wide = max(self._runs.keys, self._runs.longest) >= 1 << 32
        packed = self._table.pack()
        places = {"table": [0, len(packed), fsio.crc32c(packed)]}
        yield self._counted(packed)
        blocks = np.zeros((1 << bits, 3), "<i8")
        width = (1 << 64) >> bits
        for number in range(1 << bits):
            keys = self._runs.between(number * width, (number + 1) * width - 1)
            self._count_distinct(keys)
            data = Block(keys["prefix"], keys["record"], keys["length"], keys["tail"]).pack(wide)
            blocks[number] = self.at, len(keys), fsio.crc32c(data)
            yield self._counted(data)
        packed = blocks.tobytes()
        places["blocks"] = [self.at, len(packed), fsio.crc32c(packed)]
        yield self._counted(packed)
        footer = self._footer(bits, wide) | places
        data = json.dumps(footer, sort_keys=True, separators=(",", ":")).encode()
        yield self._counted(data + ENDING.pack(len(data), fsio.crc32c(data)))

    def _footer(self, bits: int, wide: bool) -> dict[str, object]:
        table = self._table
        return {
            "format": INDEX_FORMAT, "recipe": self._recipe, "segments": len(table.names),
            "replaced": len(table.replaced), "keys": self._runs.keys, "distinct": self.distinct, "rows": self._rows,
            "bits": bits, "wide": int(wide),
        }  # fmt: skip

    def _counted(self, piece: bytes) -> bytes:
        self.at += len(piece)
        return piece

    def _count_distinct(self, keys: np.ndarray) -> None:
        again = (keys["prefix"][1:] == keys["prefix"][:-1]) & (keys["tail"][1:] == keys["tail"][:-1]).all(1)
        first = np.append(True, ~again)[: len(keys)]
        self.distinct += int(first.sum())
        self._rows += int(keys["length"][first].sum())
