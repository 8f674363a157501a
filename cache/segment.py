"""A segment: one immutable Zarr v3 group of rows [ΣL, D], offsets [n+1], digest [n, 32] and crc32c [n].

Legend: n records, L residues of a record, D width of a row.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cache import fsio
from cache.commit import Commit, FileSum
from cache.errors import CacheCorrupt
from cache.recipe import Recipe
from cache.zarrfile import GROUP_JSON, array_json, inner_rows, parse_array_json, plain_view, shard_index

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
        if self.path.is_symlink():
            raise CacheCorrupt(f"{self.path}: is a link; a segment is a folder")
        for name, expected in commit.files.items():
            self._check_file(name, expected, data=name != ROWS)
        self.offsets = self._small("offsets", "int64", (commit.records + 1,))
        self.digest = self._small("digest", "uint8", (commit.records, 32))
        self.crc32c = self._small("crc32c", "uint32", (commit.records,))
        self._checked = np.zeros(commit.records, bool)
        lengths = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != commit.rows or (lengths < 1).any():
            raise CacheCorrupt(f"{self.path}: offsets do not run from 0 to {commit.rows}; `crossllm cache verify`")
        layout = parse_array_json(self.path / "rows" / "zarr.json")
        if layout.shape != (commit.rows, recipe.dim) or layout.dtype.name != recipe.dtype:
            raise CacheCorrupt(f"{self.path}/rows: shape {layout.shape} {layout.dtype}, not what the recipe says")
        self._view = plain_view(self.path / ROWS, layout, commit.files[ROWS].bytes)
        self._zarr: Any = None

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
            self._check_file(ROWS, self.commit.files[ROWS], data=True)
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

    def _check_file(self, name: str, expected: FileSum, *, data: bool) -> None:
        path = self.path / name
        try:
            raw = fsio.map_file(path, expected.bytes)
        except FileNotFoundError:
            raise CacheCorrupt(f"{path}: missing, though its commit record names it") from None
        if data and fsio.crc32c(raw) != expected.crc32c:
            raise CacheCorrupt(f"{path}: does not match the crc32c of its commit record")

    def _small(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        layout = parse_array_json(self.path / name / "zarr.json")
        array = plain_view(self.path / _CHUNK[name], layout, self.commit.files[_CHUNK[name]].bytes)
        if array is None or array.dtype.name != dtype or array.shape != shape:
            raise CacheCorrupt(f"{self.path}/{name}: not a plain {dtype} array of shape {shape}")
        return array
