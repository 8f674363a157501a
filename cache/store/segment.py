"""A segment: n records, immutable once committed: rows [ΣL, D], offsets [n+1], digest [n, 32] and crc32c [n].

It is a Zarr v3 group, or one HDF5 file of four contiguous datasets.  Legend: L residues of a record, D width of a row.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from crossllm.cache.errors import VERIFY, CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import PlainFile, read_bytes
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.remote.held_file import HeldFile
from crossllm.cache.remote.local import LetGo
from crossllm.cache.remote.rows import FetchedRows, Source
from crossllm.cache.store.commit import H5, Commit
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.row_source import IO, Rows, ZarrRows, plain_rows
from crossllm.cache.store.shard_validation import Chunks, check_chunks
from crossllm.cache.store.zarr_format import is_in_order, is_plain, parse_array_json

ROWS = "rows/c/0/0"
CHUNK = {"rows": ROWS, "offsets": "offsets/c/0", "digest": "digest/c/0/0", "crc32c": "crc32c/c/0"}
"""Array → the file of a Zarr segment that holds it."""
_ALIGN = 8
"""The rows of an HDF5 segment begin at a multiple of this many bytes, so that a mapped row is aligned."""
MAX_META = 1 << 20
"""Bytes of a `zarr.json`."""
_SMALL: dict[str, Callable[[int], tuple[tuple[int, ...], str]]] = {
    "offsets": lambda n: ((n + 1,), "int64"),
    "digest": lambda n: ((n, 32), "uint8"),
    "crc32c": lambda n: ((n,), "uint32"),
}
"""Array → its shape and type for n records."""


def _small_sizes(records: int) -> dict[str, int]:
    return {
        name: prod(shape) * np.dtype(dtype).itemsize for name, of in _SMALL.items() for shape, dtype in [of(records)]
    }


class Segment:
    """A committed segment, open for reading: its small arrays checked, its rows read and checked when first wanted."""

    def __init__(self, recipe_dir: Path, recipe: Recipe, commit: Commit, io: IO = "mmap") -> None:
        self.path = recipe_dir / "segments" / commit.segment
        self.name = commit.segment
        self.commit, self._recipe, self._io = commit, recipe, io
        self._mirror = mirror_of(recipe_dir)
        if (commit.recipe, commit.recipe_crc32c) != (recipe.digest, fsio.crc32c(recipe.to_json())):
            raise CacheCorrupt(f"{self.path}: was written for another recipe, or recipe.json was edited; {VERIFY}")
        if self._mirror is not None:
            self._mirror.bring(recipe_dir, commit.segment, commit.files)
        self._refuse_links()
        small = self._small_arrays()
        self.offsets = np.frombuffer(small["offsets"], "<i8")
        self.digest = np.frombuffer(small["digest"], np.uint8).reshape(-1, 32)
        self.crc32c = np.frombuffer(small["crc32c"], "<u4")
        self._checked = np.zeros(commit.records, bool)
        lengths = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != commit.rows or (lengths < 1).any():
            raise CacheCorrupt(f"{self.path}: offsets do not run from 0 to {commit.rows}; {VERIFY}")

    @cached_property
    def source(self) -> Rows:
        """Where the rows are read from, opened when the first of them is wanted: it holds a file descriptor."""
        if self._mirror is not None:
            own = weakref.proxy(self)  # no circle: descriptors go when the segment does
            return FetchedRows(lambda: own._held(), lambda held: own._fetched(held))
        if self.commit.store == "h5":
            part, size = self.commit.parts["rows"], self.commit.files[H5].bytes
            return plain_rows(PlainFile(self.path / H5, size), part.at, self._shape, self._dtype, self._io)
        file = PlainFile(self.path / ROWS, self.commit.files[ROWS].bytes)
        if is_in_order(file, self._layout):
            return plain_rows(file, 0, self._shape, self._dtype, self._io)
        check_chunks(file, self._layout)
        return ZarrRows(self.path / "rows")

    def _held(self) -> HeldFile:
        """What is here of the file of rows of a segment in an object store."""
        assert self._mirror is not None
        name = H5 if self.commit.store == "h5" else ROWS
        return self._mirror.held(self.path, name, self.commit.files[name].bytes)

    def _fetched(self, held: HeldFile) -> Source:
        """How its rows are read; the index of a shard is fetched and checked here, its chunks when they are wanted."""
        row_bytes = self._recipe.dim * self._dtype.itemsize
        if self.commit.store == "h5":
            at, in_order = self.commit.parts["rows"].at, True
        else:
            at, in_order = 0, is_in_order(held, self._layout)
        if in_order:
            rows = plain_rows(PlainFile(held.path, held.size), at, self._shape, self._dtype, self._io)
            return Source(held, rows, lambda a, b: [(at + a * row_bytes, at + b * row_bytes)], lambda _a, _b: None)
        chunks = Chunks(held, self._layout)
        return Source(held, ZarrRows(self.path / "rows"), chunks.ranges, chunks.check)

    def fetch(self, records: Iterable[int]) -> None:
        """Have the rows of records on this machine, in few requests, where they come from an object store."""
        if self._mirror is not None and isinstance(self.source, FetchedRows):
            self.source.fetch([(int(self.offsets[n]), int(self.offsets[n + 1])) for n in records])

    def fetch_whole(self) -> None:
        """Have the file of rows on this machine, all of it."""
        if isinstance(self.source, FetchedRows):
            self.source.fetch_whole()

    def rows(self, index: int) -> np.ndarray:
        """Rows of record `index`, shape (L, D), read-only; the record's crc32c is checked at its first touch."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        rows = self.source.read(start, stop)
        if not (self._checked[index] and self.source.steady) and not self._settled(index, rows):
            rows = self.source.read(start, stop)
            self._check(index, rows)
        return rows

    def read_into(self, index: int, out: np.ndarray) -> None:
        """Copy the rows of record `index` into `out`, shape (L, D), and check the copy at the record's first touch."""
        self.source.read_into(int(self.offsets[index]), out)
        if not (self._checked[index] and self.source.steady) and not self._settled(index, out):
            self.source.read_into(int(self.offsets[index]), out)
            self._check(index, out)

    def prefetch(self, index: int) -> None:
        """Tell the system that a record is wanted soon."""
        self.source.prefetch(int(self.offsets[index]), int(self.offsets[index + 1]))

    def _settled(self, index: int, rows: np.ndarray) -> bool:
        """Whether the rows match their crc32c; False where a damaged local copy was fetched again: read once more."""
        try:
            self._check(index, rows)
        except CacheCorrupt:
            if not isinstance(self.source, FetchedRows):
                raise
            self.source.renew(int(self.offsets[index]), int(self.offsets[index + 1]))
            return False
        return True

    def _check(self, index: int, rows: np.ndarray) -> None:
        if fsio.crc32c(rows.reshape(-1).view(np.uint8)) != self.crc32c[index]:
            raise CacheCorrupt(
                f"{self.path}: record {self.digest[index].tobytes().hex()} at row {int(self.offsets[index])} does not "
                f"match its crc32c; {VERIFY}"
            )
        self._checked[index] = True

    @property
    def stored_as(self) -> tuple[Store, Compressor | None]:
        """Store and compressor, as `CacheWriter` takes them."""
        if self.commit.store == "h5":
            return "h5", None
        return "zarr", "zstd" if "zstd" in self._layout.codecs else None

    @property
    def _shape(self) -> tuple[int, int]:
        return self.commit.rows, self._recipe.dim

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self._recipe.dtype).newbyteorder("<")

    def _refuse_links(self) -> None:
        folders = {self.path / parent for name in self.commit.files for parent in Path(name).parents}
        folders |= {self.path.parent, self.path.parent.parent}
        for folder in sorted(folders):
            if folder.is_symlink():
                raise CacheCorrupt(f"{folder}: is a link; a segment holds plain files and folders; {VERIFY}")

    def _small_arrays(self) -> dict[str, bytes]:
        if self.commit.store == "zarr":
            return self._zarr_arrays()
        while True:
            try:
                return self._h5_arrays()
            except LetGo:  # another process needed the space of the local copy
                continue

    def _h5_arrays(self) -> dict[str, bytes]:
        """The small arrays of an HDF5 segment, read at the places that the commit record names, and checked."""
        commit, path = self.commit, self.path / H5
        file = PlainFile(path, commit.files[H5].bytes) if self._mirror is None else self._held()
        sizes = {"rows": commit.rows * self._recipe.dim * self._dtype.itemsize, **_small_sizes(commit.records)}
        found = {}
        end = 0
        for name, (at, size, crc) in sorted(commit.parts.items(), key=lambda part: part[1].at):
            if size != sizes[name] or not end <= at <= file.size - size or (name == "rows" and at % _ALIGN):
                raise CacheCorrupt(
                    f"{path}: {size} bytes of {name} at byte {at} of {file.size}, where {sizes[name]} bytes after byte "
                    f"{end} are expected; {VERIFY}"
                )
            end = at + size
            if name != "rows":
                found[name] = file.read(size, at)
                if isinstance(file, HeldFile) and fsio.crc32c(found[name]) != crc:
                    file.renew(at, at + size)
                    found[name] = file.read(size, at)
                if fsio.crc32c(found[name]) != crc:
                    raise CacheCorrupt(f"{path}: {name} does not match the crc32c of the commit record; {VERIFY}")
        file.close()
        return found

    def _zarr_arrays(self) -> dict[str, bytes]:
        """The small arrays of a Zarr segment; `zarr.json` of its rows is read and checked as well."""
        sizes = _small_sizes(self.commit.records)
        for name, expected in self.commit.files.items():
            # Before anything of a declared size is read.
            if name.endswith("zarr.json") and expected.bytes > MAX_META:
                raise CacheCorrupt(f"{self.path / name}: {expected.bytes} bytes, at most {MAX_META} are read; {VERIFY}")
        for name, size in sizes.items():
            found = self.commit.files[CHUNK[name]].bytes
            if found != size:
                raise CacheCorrupt(f"{self.path / CHUNK[name]}: {found} bytes where {size} are expected; {VERIFY}")
        small = {name: self._read_small(name) for name in self.commit.files if name != ROWS}
        if self._mirror is None:
            PlainFile(self.path / ROWS, self.commit.files[ROWS].bytes).close()
        self._layout = parse_array_json(self.path / "rows" / "zarr.json", small["rows/zarr.json"])
        if self._layout.shape != self._shape or self._layout.dtype != self._dtype:
            expected_rows = f"{self._shape} {self._dtype} are expected; {VERIFY}"
            raise CacheCorrupt(
                f"{self.path}/rows: shape {self._layout.shape} {self._layout.dtype} where {expected_rows}"
            )
        for name in sizes:
            path = self.path / name
            layout = parse_array_json(path / "zarr.json", small[f"{name}/zarr.json"])
            shape, dtype = _SMALL[name](self.commit.records)
            if layout.inner is not None or not is_plain(layout) or (layout.shape, layout.dtype.name) != (shape, dtype):
                raise CacheCorrupt(f"{path}: not one plain {dtype} chunk of shape {shape}; {VERIFY}")
        return {name: small[CHUNK[name]] for name in _SMALL}

    def _read_small(self, name: str) -> bytes:
        """The bytes of a small file, checked against the commit record."""
        path, expected = self.path / name, self.commit.files[name]
        try:
            data = read_bytes(path, expected.bytes)
        except FileNotFoundError:
            raise CacheCorrupt(f"{path}: missing, though its commit record names it; {VERIFY}") from None
        if len(data) != expected.bytes or fsio.crc32c(data) != expected.crc32c:
            raise CacheCorrupt(f"{path}: does not match the size and crc32c of its commit record; {VERIFY}")
        return data
