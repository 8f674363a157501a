"""A segment: one immutable Zarr v3 group of rows [ΣL, D], offsets [n+1], digest [n, 32] and crc32c [n].

Legend: n records, L residues of a record, D width of a row.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache import fsio
from cache.commit import Commit, FileSum
from cache.errors import CacheCorrupt
from cache.recipe import Recipe
from cache.zarrfile import GROUP_JSON, array_json, inner_rows, is_plain, parse_array_json, plain_array, shard_index

ROWS = "rows/c/0/0"
_CHUNK = {"rows": ROWS, "offsets": "offsets/c/0", "digest": "digest/c/0/0", "crc32c": "crc32c/c/0"}


class SegmentWriter:
    """Streams records into a new segment folder; the rows never wait in memory.

    Nothing here is visible to a reader until `cache.commit.publish_commit` names the segment.
    """

    def __init__(self, recipe_dir: Path, recipe: Recipe) -> None:
        self.name = fsio.new_name()
        self.path = recipe_dir / "segments" / self.name
        self._recipe = recipe
        self._keys: list[bytes] = []
        self._offsets = [0]
        self._crcs: list[int] = []
        self._files: dict[str, FileSum] = {}
        fsio.make_new_dir(self.path)
        self._make_folder("rows")
        self._shard = fsio.SyncedFile(self.path / ROWS)

    @property
    def row_bytes(self) -> int:
        """Bytes of rows written so far."""
        return self._shard.size

    def add(self, key: bytes, rows: np.ndarray) -> None:
        """Append one record; `rows` is C-contiguous, shape (L, D), in the recipe's storage dtype."""
        self._crcs.append(fsio.crc32c(rows.reshape(-1).view(np.uint8)))
        self._shard.write(rows.reshape(-1).view(np.uint8))
        self._keys.append(key)
        self._offsets.append(self._offsets[-1] + rows.shape[0])

    def close(self) -> Commit:
        """Finish and sync every file, then every folder bottom-up, then `segments/`; what to publish."""
        total, count, dim = self._offsets[-1], len(self._keys), self._recipe.dim
        row_bytes = dim * np.dtype(self._recipe.dtype).itemsize
        if self._shard.size != total * row_bytes:
            raise RuntimeError(f"{self._shard.size} bytes of rows for {total} rows: a record was cut in half")
        per_chunk = min(inner_rows(row_bytes), total)
        chunks = -(-total // per_chunk)
        self._shard.write(bytes((chunks * per_chunk - total) * row_bytes))
        self._shard.write(shard_index(chunks, per_chunk * row_bytes))
        self._shard.close()
        self._files[ROWS] = FileSum(self._shard.size, self._shard.crc)
        self._write(
            "rows/zarr.json", array_json((total, dim), self._recipe.dtype, (chunks * per_chunk, dim), (per_chunk, dim))
        )
        self._write_array("offsets", np.asarray(self._offsets, "<i8"))
        self._write_array("digest", np.frombuffer(b"".join(self._keys), np.uint8).reshape(count, 32))
        self._write_array("crc32c", np.asarray(self._crcs, "<u4"))
        self._write("zarr.json", GROUP_JSON)
        self._sync_folders()
        recipe = self._recipe
        return Commit(self.name, recipe.digest, fsio.crc32c(recipe.to_json()), count, total, self._files, ())

    def abandon(self) -> None:
        """Leave nothing of this segment behind."""
        self._shard.close(sync=False)
        shutil.rmtree(self.path, ignore_errors=True)

    def _make_folder(self, array: str) -> None:
        for folder in reversed(Path(_CHUNK[array]).parents[:-1]):
            fsio.make_new_dir(self.path / folder)

    def _write(self, name: str, data: bytes) -> None:
        with fsio.SyncedFile(self.path / name) as file:
            file.write(data)
        self._files[name] = FileSum(file.size, file.crc)

    def _write_array(self, name: str, array: np.ndarray) -> None:
        self._make_folder(name)
        self._write(f"{name}/zarr.json", array_json(array.shape, array.dtype.name, array.shape, None))
        self._write(_CHUNK[name], array.tobytes())

    def _sync_folders(self) -> None:
        folders = {parent for name in self._files for parent in Path(name).parents}
        for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
            fsio.sync_dir(self.path / folder)
        fsio.sync_dir(self.path.parent)


class Segment:
    """A committed segment, open for reading: its small files checked, its rows mapped and checked at first touch."""

    def __init__(self, recipe_dir: Path, recipe: Recipe, commit: Commit) -> None:
        self.path = recipe_dir / "segments" / commit.segment
        self.commit = commit
        if (commit.recipe, commit.recipe_crc32c) != (recipe.digest, fsio.crc32c(recipe.to_json())):
            raise CacheCorrupt(f"{self.path}: was written for another recipe")
        self._refuse_links()
        small = {name: self._read_small(name) for name in commit.files if name != ROWS}
        fsio.check_size(self.path / ROWS, commit.files[ROWS].bytes)
        self.offsets = self._array("offsets", small, "int64", (commit.records + 1,))
        self.digest = self._array("digest", small, "uint8", (commit.records, 32))
        self.crc32c = self._array("crc32c", small, "uint32", (commit.records,))
        self._checked = np.zeros(commit.records, bool)
        lengths = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != commit.rows or (lengths < 1).any():
            raise CacheCorrupt(f"{self.path}: offsets do not run from 0 to {commit.rows}; `crossllm cache verify`")
        self._layout = parse_array_json(self.path / "rows" / "zarr.json", small["rows/zarr.json"])
        if self._layout.shape != (commit.rows, recipe.dim) or self._layout.dtype.name != recipe.dtype:
            raise CacheCorrupt(f"{self.path}/rows: shape {self._layout.shape} {self._layout.dtype}, not the recipe's")
        self._zarr: Any = None

    @cached_property
    def _view(self) -> np.ndarray | None:
        """All rows, mapped when the first of them is wanted: an open map holds a file descriptor."""
        if not is_plain(self._layout):
            return None
        raw = fsio.map_file(self.path / ROWS, self.commit.files[ROWS].bytes)
        return plain_array(raw, self._layout, self.path / ROWS)

    @property
    def is_mapped(self) -> bool:
        """Whether rows are views of the mapped file (the fast path) rather than copies made by zarr-python."""
        return self._view is not None

    def rows(self, index: int) -> np.ndarray:
        """Rows of record `index`, shape (L, D), read-only; the record's crc32c is checked at its first touch."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        rows = self._view[start:stop] if self._view is not None else self._through_zarr(start, stop)
        if not self._checked[index]:
            if fsio.crc32c(rows.reshape(-1).view(np.uint8)) != self.crc32c[index]:
                raise CacheCorrupt(
                    f"{self.path}/{ROWS}: record {self.digest[index].tobytes().hex()} at row {start} does not match "
                    "its crc32c; `crossllm cache verify --data` lists what is damaged"
                )
            self._checked[index] = True
        return rows

    def check_all(self) -> list[str]:
        """Read every byte: one line for the shard file and one for each record that does not match its crc32c."""
        found: list[str] = []
        try:
            expected = self.commit.files[ROWS]
            if fsio.crc32c(fsio.map_file(self.path / ROWS, expected.bytes)) != expected.crc32c:
                raise CacheCorrupt(f"{self.path / ROWS}: does not match the crc32c of its commit record")
        except CacheCorrupt as error:
            found.extend(error.lines)
        for index in range(self.commit.records):
            try:
                self.rows(index)
            except CacheCorrupt as error:
                found.extend(error.lines)
        return found

    def _through_zarr(self, start: int, stop: int) -> np.ndarray:
        try:
            if self._zarr is None:
                import zarr

                self._zarr = zarr.open_array(str(self.path / "rows"), mode="r")
            rows: np.ndarray = np.ascontiguousarray(self._zarr[start:stop])
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # a decoder may raise anything at damaged bytes
            raise CacheCorrupt(
                f"{self.path / ROWS}: zarr-python cannot read rows {start} to {stop}: {error}"
            ) from error
        rows.flags.writeable = False
        return rows

    def _refuse_links(self) -> None:
        folders = {self.path / parent for name in self.commit.files for parent in Path(name).parents}
        for folder in sorted(folders):
            if folder.is_symlink():
                raise CacheCorrupt(f"{folder}: is a link; a segment holds plain files and folders")

    def _read_small(self, name: str) -> bytes:
        """The bytes of a small file, checked against the commit record."""
        path, expected = self.path / name, self.commit.files[name]
        try:
            data = fsio.read_bytes(path, expected.bytes)
        except FileNotFoundError:
            raise CacheCorrupt(f"{path}: missing, though its commit record names it") from None
        if len(data) != expected.bytes or fsio.crc32c(data) != expected.crc32c:
            raise CacheCorrupt(f"{path}: does not match the size and crc32c of its commit record")
        return data

    def _array(self, name: str, small: dict[str, bytes], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.path / name
        layout = parse_array_json(path / "zarr.json", small[f"{name}/zarr.json"])
        if layout.inner is not None or not is_plain(layout) or layout.dtype.name != dtype or layout.shape != shape:
            raise CacheCorrupt(f"{path}: not one plain {dtype} chunk of shape {shape}")
        array = plain_array(np.frombuffer(small[_CHUNK[name]], np.uint8), layout, path)
        assert array is not None  # only a shard can be out of order
        return array
