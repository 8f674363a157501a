"""What can still be proved good of a damaged segment, record by record.

A record is proved by its rows matching its crc32c, and by its key: that is sure where the array of keys matches the
commit record; where it does not, or no commit record can be read, the records table must give the key this length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import PlainFile, read_bytes
from crossllm.cache.store.commit import H5, Commit, Part
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.row_source import Rows, ZarrRows, plain_rows
from crossllm.cache.store.segment import CHUNK, MAX_META, ROWS, Segment
from crossllm.cache.store.shard_validation import check_chunks
from crossllm.cache.store.zarr_format import is_plain, parse_array_json

_SMALL = ("digest", "offsets", "crc32c")
_MAX_BYTES = 1 << 32


class Found(NamedTuple):
    """One record of a damaged segment."""

    key: bytes | None
    """None where it cannot be told."""
    rows: NDArray[np.floating] | None
    """Shape (L, D), a copy that was checked; None where they are not proved."""


class Salvage:
    """The records of a damaged segment, in their order; nothing where its arrays cannot be read at all."""

    def __init__(
        self, recipe_dir: Path, recipe: Recipe, segment: str, commit: Commit | None, lengths: Mapping[bytes, int]
    ) -> None:
        """`commit` is None where the commit record is damaged; `lengths` is what the records table says of keys."""
        self._path, self._recipe, self._commit, self._lengths = (
            recipe_dir / "segments" / segment,
            recipe,
            commit,
            lengths,
        )
        self._dtype = np.dtype(recipe.dtype).newbyteorder("<")
        self._sure = False
        self._digest = np.empty((0, 32), np.uint8)
        self._offsets, self._crc32c = np.zeros(1, np.int64), np.empty(0, np.uint32)
        self._source: Rows | None = None
        self._total = 0
        if not self._open_whole(recipe_dir):
            self._open_pieces()

    def __iter__(self) -> Iterator[Found]:
        provable = min(len(self._offsets) - 1, len(self._crc32c)) if self._source else 0
        for index, digest in enumerate(self._digest):
            key, rows, known = digest.tobytes(), None, self._sure
            if index < provable:
                start, stop = int(self._offsets[index]), int(self._offsets[index + 1])
                known = known or self._lengths.get(key) == stop - start
                rows = self._rows(start, stop, int(self._crc32c[index])) if known else None
            yield Found(key if known or key in self._lengths else None, rows)

    def _rows(self, start: int, stop: int, crc: int) -> NDArray[np.floating] | None:
        if not 0 <= start < stop <= self._total or self._source is None:
            return None
        rows = np.empty((stop - start, self._recipe.dim), self._dtype)
        try:
            self._source.read_into(start, rows)
        except (CacheCorrupt, OSError):
            return None
        return rows if fsio.crc32c(rows.reshape(-1).view(np.uint8)) == crc else None

    def _open_whole(self, recipe_dir: Path) -> bool:
        """The arrays as a reader has them, where the segment opens: its keys are sure."""
        if self._commit is None:
            return False
        try:
            segment = Segment(recipe_dir, self._recipe, self._commit, io="pread")
            self._source = segment.source
        except CacheCorrupt:
            return False
        self._digest, self._offsets, self._crc32c = segment.digest, segment.offsets, segment.crc32c
        self._sure, self._total = True, self._commit.rows
        return True

    def _open_pieces(self) -> None:
        """The arrays as they lie there, each by itself, whatever the other files say."""
        commit = self._commit
        parts = commit.parts if commit is not None else {}
        places = [self._path, *(self._path / parent for name in CHUNK.values() for parent in Path(name).parents)]
        if any(place.is_symlink() for place in places) or (not parts and (self._path / H5).exists()):
            return  # no link is followed; where an HDF5 file has its arrays, only the commit record says
        pieces = {name: self._h5_piece(parts[name]) if parts else self._zarr_piece(name) for name in _SMALL}
        if commit is not None:
            expected = parts["digest"].crc32c if parts else commit.files[CHUNK["digest"]].crc32c
            self._sure = fsio.crc32c(pieces["digest"]) == expected and len(pieces["digest"]) == 32 * commit.records
        self._digest = np.frombuffer(pieces["digest"], np.uint8, len(pieces["digest"]) // 32 * 32).reshape(-1, 32)
        self._offsets = np.frombuffer(pieces["offsets"], "<i8", len(pieces["offsets"]) // 8)
        self._crc32c = np.frombuffer(pieces["crc32c"], "<u4", len(pieces["crc32c"]) // 4)
        with suppress(CacheCorrupt, OSError):
            if parts:
                self._take_plain(self._path / H5, parts["rows"].at)
            elif not self._take_compressed():
                self._take_plain(self._path / ROWS, 0)

    def _zarr_piece(self, name: str) -> bytes:
        with suppress(CacheCorrupt, OSError):
            return read_bytes(self._path / CHUNK[name], _MAX_BYTES)
        return b""

    def _h5_piece(self, part: Part) -> bytes:
        with suppress(CacheCorrupt, OSError):
            return PlainFile(self._path / H5, (self._path / H5).stat().st_size).read(part.bytes, part.at)
        return b""

    def _take_compressed(self) -> bool:
        """Whether the rows say that they are no plain array; they are read by zarr-python then."""
        compressed = False
        with suppress(CacheCorrupt, OSError):
            json = self._path / "rows" / "zarr.json"
            layout = parse_array_json(json, read_bytes(json, MAX_META))
            if is_plain(layout) or layout.shape[1:] != (self._recipe.dim,) or layout.dtype != self._dtype:
                return False
            compressed = True
            check_chunks(PlainFile(self._path / ROWS, (self._path / ROWS).stat().st_size), layout)
            self._source, self._total = ZarrRows(self._path / "rows"), layout.shape[0]
        return compressed

    def _take_plain(self, path: Path, at: int) -> None:
        size = path.stat().st_size
        self._total = (size - at) // (self._recipe.dim * self._dtype.itemsize)
        shape = (self._total, self._recipe.dim)
        self._source = plain_rows(PlainFile(path, size), at, shape, self._dtype, "pread")
