"""`CacheWriter`: rows in, committed segments out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from crossllm.cache.errors import InputError, RowsRefused
from crossllm.cache.files import fsio
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store import writer_marker
from crossllm.cache.store.commit import publish_commit
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe, write_recipe
from crossllm.cache.store.segment_writer import SegmentWriter

SEGMENT_BYTES = 256 << 20
SEGMENT_SECONDS = 60.0


class CacheWriter:
    """Writes records of one recipe into a cache, one segment at a time.

    `store` and `compressor` say how segments are laid down; a cache may mix them, and readers need no word of it.
    A segment is committed when it holds `segment_bytes`, at the first record after `segment_seconds`, at `commit()` and
    at a normal exit; a `BackgroundWriter` commits it after `segment_seconds` even if no record comes.
    Left on an exception, the writer commits nothing of the open segment and removes it.

        with CacheWriter(Path("cache/rpi1460"), recipe) as writer:
            for key, (rows,) in encoder.encode(records):
                writer.add(key, rows)
    """

    def __init__(
        self,
        cache_dir: Path,
        recipe: Recipe,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        store: Store = "zarr",
        compressor: Compressor | None = None,
        on_commit: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        """`on_commit` is told the keys of each segment as soon as they survive a power loss."""
        refuse_compressed_h5(store, compressor)
        self._recipe, self._store, self._compressor = recipe, store, compressor
        self._dtype = np.dtype(recipe.dtype)
        self._folder = write_recipe(cache_dir, recipe)
        if mirror_of(self._folder) is not None:
            writer_marker.remove_abandoned(self._folder)
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._on_commit = on_commit
        self._open: SegmentWriter | None = None
        self._opened = 0.0
        self.committed = 0
        """Records committed so far."""

    def add(self, key: bytes, rows: np.ndarray) -> None:
        """Store the rows of one record, shape (L, D), any float type; they are cast to the recipe's storage dtype.

        Raises:
            RowsRefused: a value is not finite, or too large for the storage dtype; nothing of the record is stored.
            ValueError: the shape is not (L ≥ 1, D).
        """
        self.put([(key, self.checked(rows))])

    def checked(self, rows: np.ndarray) -> np.ndarray:
        """The rows of one record as `put` takes them, or the errors of `add`; nothing is stored."""
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != self._recipe.dim:
            raise ValueError(f"rows of shape {rows.shape}, expected (L, {self._recipe.dim}) with L at least 1")
        return stored_rows(rows, self._dtype)

    def put(self, records: Sequence[tuple[bytes, np.ndarray]]) -> None:
        """Store what `checked` gave, of one or several records; those of one segment are written together."""
        start = 0
        while start < len(records):
            if self._open is None:
                self._open = SegmentWriter(self._folder, self._recipe, self._store, self._compressor)
                self._opened = time.monotonic()
            size, stop = self._open.row_bytes, start
            while stop < len(records) and size < self._segment_bytes:
                size += records[stop][1].nbytes
                stop += 1
            self._open.add(records[start:stop])
            start = stop
            if size >= self._segment_bytes or self._opened + self._segment_seconds <= time.monotonic():
                self.commit()

    def seconds_left(self) -> float | None:
        """Until the open segment is to be committed whatever it holds; None where none is open."""
        return None if self._open is None else self._opened + self._segment_seconds - time.monotonic()

    def commit(self, supersedes: tuple[str, ...] = ()) -> None:
        """Publish the open segment, if there is one; when this returns, its records survive a power loss.

        `supersedes` names the segments that it replaces.
        """
        if self._open is None:
            return
        segment, self._open = self._open, None
        try:
            commit = segment.close()
        except BaseException:
            segment.abandon()
            raise
        # From here on the folder stays even on an error: its commit record may be visible already.
        try:
            publish_commit(self._folder, commit._replace(supersedes=supersedes))
        except BaseException:
            if mirror_of(self._folder) is not None:  # a copy here of what is, or is not, in the object store
                segment.abandon()
            raise
        self.committed += commit.records
        if self._on_commit is not None:
            self._on_commit(segment.keys)
        writer_marker.unmark(self._folder, commit.segment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None:
            self.commit()
        elif self._open is not None:
            self._open.abandon()
            self._open = None


def refuse_compressed_h5(store: Store, compressor: Compressor | None) -> None:
    """Raise `InputError` for the one pair that cannot be: readers take an HDF5 segment's rows from where they lie."""
    if store == "h5" and compressor is not None:
        raise InputError(f"--compressor {compressor}: an h5 segment is never compressed; use --store zarr")


def sync_what_others_wrote(cache_dir: Path, recipe: Recipe) -> None:
    """Make what was found in a cache survive a power loss too: who published it may have been killed before it did."""
    for folder in (recipe.folder(cache_dir) / "commits", cache_dir / "records"):
        if folder.is_dir():
            fsio.sync_dir(folder)


def stored_rows(rows: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Rows as they are stored: C-contiguous and cast to the storage dtype.

    Raises:
        RowsRefused: a value is not finite, or too large for the storage dtype.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(rows, dtype)
    if not np.isfinite(stored).all():
        raise RowsRefused(_refusal(rows, dtype.name))
    return stored


def _refusal(rows: np.ndarray, dtype: str) -> str:
    bad = ~np.isfinite(rows)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        return f"{rows[row, column]} at row {row}, column {column}; rows must be finite"
    largest = float(np.abs(rows).max())
    return f"a value of magnitude {largest:.6g} overflows {dtype}; store as --dtype float32"
