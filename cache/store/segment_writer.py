"""Writing a segment: records go into a new folder, which no reader sees until its commit is published."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from crossllm.cache.files import fsio
from crossllm.cache.store import writer_marker
from crossllm.cache.store.commit import Commit, Written
from crossllm.cache.store.hdf5_writer import H5Body
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.zarr_writer import ZarrBody


class Body(Protocol):
    """The files of a segment in one of the stores."""

    @property
    def row_bytes(self) -> int:
        """Bytes of rows taken so far, as they are uncompressed."""

    def add(self, rows: np.ndarray) -> None:
        """Append the bytes of one record's rows, shape (bytes,), uint8."""

    def close(self, small: dict[str, np.ndarray]) -> Written:
        """Finish and sync every file, the small arrays' too."""

    def abandon(self) -> None:
        """Close what is open, unsynced."""


class SegmentWriter:
    """Puts records into a new segment folder; the rows of a Zarr segment never wait in memory, those of an HDF5 do."""

    def __init__(
        self, recipe_dir: Path, recipe: Recipe, store: Store = "zarr", compressor: Compressor | None = None
    ) -> None:
        self.name = fsio.new_name()
        self.path = recipe_dir / "segments" / self.name
        self._recipe = recipe
        self.keys: list[bytes] = []
        """Of the records so far."""
        self._offsets = [0]
        self._crcs: list[int] = []
        self._body: Body | None = None
        try:
            writer_marker.mark(recipe_dir, self.name)
            fsio.make_new_dir(self.path)
            if store == "h5":
                self._body = H5Body(self.path, recipe.dim, recipe.dtype)
            else:
                self._body = ZarrBody(self.path, recipe.dim, recipe.dtype, compressor)
        except BaseException:
            self.abandon()
            raise

    @property
    def row_bytes(self) -> int:
        """Bytes of rows so far, as they are uncompressed."""
        return 0 if self._body is None else self._body.row_bytes

    def add(self, records: Sequence[tuple[bytes, np.ndarray]]) -> None:
        """Append records, in one write; rows are C-contiguous, shape (L, D), in the recipe's storage dtype."""
        assert self._body is not None
        parts = [rows.reshape(-1).view(np.uint8) for _, rows in records]
        crcs = [fsio.crc32c(part) for part in parts]
        self._body.add(parts[0] if len(parts) == 1 else np.concatenate(parts))
        self._crcs += crcs
        for key, rows in records:
            self.keys.append(key)
            self._offsets.append(self._offsets[-1] + rows.shape[0])

    def close(self) -> Commit:
        """Finish and sync every file, then every folder bottom-up, then `segments/`; what to publish."""
        assert self._body is not None
        total, count, recipe = self._offsets[-1], len(self.keys), self._recipe
        if self.row_bytes != total * recipe.dim * np.dtype(recipe.dtype).itemsize:
            raise RuntimeError(f"{self.row_bytes} bytes of rows for {total} rows: a record was cut in half")
        files, parts = self._body.close(
            {
                "offsets": np.asarray(self._offsets, "<i8"),
                "digest": np.frombuffer(b"".join(self.keys), np.uint8).reshape(count, 32),
                "crc32c": np.asarray(self._crcs, "<u4"),
            }
        )
        folders = {parent for name in files for parent in Path(name).parents}
        for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
            fsio.sync_dir(self.path / folder)
        fsio.sync_dir(self.path.parent)
        return Commit(self.name, recipe.digest, fsio.crc32c(recipe.to_json()), count, total, files, parts=parts)

    def abandon(self) -> None:
        """Leave nothing of this segment behind."""
        with suppress(OSError):
            if self._body is not None:
                self._body.abandon()
        with suppress(OSError):
            fsio.remove_tree(self.path)
            writer_marker.unmark(self.path.parent.parent, self.name)
