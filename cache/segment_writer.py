"""Writing a segment: rows are streamed into a new folder, which no reader sees until its commit is published."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from cache import fsio, marker
from cache.commit import Commit, FileSum
from cache.recipe import Recipe
from cache.segment import CHUNK, ROWS
from cache.zarrfile import GROUP_JSON, array_json, inner_rows, shard_index


class SegmentWriter:
    """Streams records into a new segment folder; the rows never wait in memory."""

    def __init__(self, recipe_dir: Path, recipe: Recipe) -> None:
        self.name = fsio.new_name()
        self.path = recipe_dir / "segments" / self.name
        self._recipe = recipe
        self._keys: list[bytes] = []
        self._offsets = [0]
        self._crcs: list[int] = []
        self._files: dict[str, FileSum] = {}
        marker.mark(recipe_dir, self.name)
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
        return Commit(self.name, recipe.digest, fsio.crc32c(recipe.to_json()), count, total, self._files)

    def abandon(self) -> None:
        """Leave nothing of this segment behind."""
        with suppress(OSError):
            self._shard.close(sync=False)
            fsio.remove_tree(self.path)
            marker.unmark(self.path.parent.parent, self.name)

    def _make_folder(self, array: str) -> None:
        for folder in reversed(Path(CHUNK[array]).parents[:-1]):
            fsio.make_new_dir(self.path / folder)

    def _write(self, name: str, data: bytes) -> None:
        with fsio.SyncedFile(self.path / name) as file:
            file.write(data)
        self._files[name] = FileSum(file.size, file.crc)

    def _write_array(self, name: str, array: np.ndarray) -> None:
        self._make_folder(name)
        self._write(f"{name}/zarr.json", array_json(array.shape, array.dtype.name, array.shape, None))
        self._write(CHUNK[name], array.tobytes())

    def _sync_folders(self) -> None:
        folders = {parent for name in self._files for parent in Path(name).parents}
        for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
            fsio.sync_dir(self.path / folder)
        fsio.sync_dir(self.path.parent)
