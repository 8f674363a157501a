"""The HDF5 file of a segment: four contiguous datasets, laid down without libhdf5 ever touching the disk.

libhdf5 gets a file that lives in memory and takes only its own metadata (some 2 KiB): the datasets are allocated early
and never filled, so their values are no part of it.  The real file is then written once, from front to back, metadata
and values in their places.  Every system call is fsio's, and no error of the disk can meet libhdf5 half-way.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache.files import fsio
from crossllm.cache.store.commit import H5, FileSum, Part, Written

ALIGN = 64
"""Every dataset begins at a multiple of this, so that a mapped row is aligned for any use."""


class H5Body:
    """Holds the rows of a segment until it closes: a contiguous dataset needs its size beforehand."""

    def __init__(self, path: Path, dim: int, dtype: str) -> None:
        self._path, self._dim, self._dtype = path / H5, dim, np.dtype(dtype).newbyteorder("<")
        self._held: list[bytes] = []
        self._crc = 0
        self.row_bytes = 0

    def add(self, rows: np.ndarray) -> None:
        """Keep a copy of the bytes of one record, shape (bytes,), uint8."""
        self._held.append(rows.tobytes())
        self._crc = fsio.crc32c(rows, self._crc)
        self.row_bytes += rows.size

    def close(self, small: Mapping[str, np.ndarray]) -> Written:
        """Write the file with the rows and the small arrays, and sync it."""
        shape = (self.row_bytes // (self._dim * self._dtype.itemsize), self._dim)
        shapes = {"rows": (shape, self._dtype)} | {name: (a.shape, a.dtype) for name, a in small.items()}
        layout = lay_out(shapes)
        tail_at = layout.places["rows"] + self.row_bytes
        head, tail = bytearray(layout.places["rows"]), bytearray(layout.size - tail_at)
        for at, data in layout.metadata + [(layout.places[name], a.tobytes()) for name, a in small.items()]:
            part, start = (head, at) if at < tail_at else (tail, at - tail_at)
            part[start : start + len(data)] = data
        if len(head) != layout.places["rows"] or len(tail) != layout.size - tail_at:
            raise RuntimeError(f"libhdf5 put its metadata where the values of {self._path} belong")
        with fsio.SyncedFile(self._path) as file:
            for data in (bytes(head), *self._held, bytes(tail)):
                file.write(data)
        parts = {name: Part(layout.places[name], a.nbytes, fsio.crc32c(a.tobytes())) for name, a in small.items()}
        parts["rows"] = Part(layout.places["rows"], self.row_bytes, self._crc)
        return Written({H5: FileSum(file.size, file.crc)}, parts)

    def abandon(self) -> None:
        """Let go of what is held; nothing is on disk before `close`."""
        self._held.clear()


class H5Layout(NamedTuple):
    """Where libhdf5 wants what."""

    places: dict[str, int]
    """Dataset → the place of its first byte."""
    metadata: list[tuple[int, bytes]]
    """What libhdf5 wrote, in its order: a later write may lie over an earlier one."""
    size: int
    """Of the file."""


def lay_out(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> H5Layout:
    """Lay a file of these datasets out; the same shapes give the same bytes, and HDF5 1.8 reads them."""
    import h5py

    memory = _Memory()
    bounds = ("earliest", "v108")
    places = {}
    with h5py.File(memory, "w", libver=bounds, alignment_threshold=1, alignment_interval=ALIGN) as file:
        for name, (shape, dtype) in shapes.items():
            wanted = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            wanted.set_layout(h5py.h5d.CONTIGUOUS)
            wanted.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            wanted.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            wanted.set_obj_track_times(False)
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
            places[name] = int(h5py.h5d.create(file.id, name.encode(), kind, space, wanted).get_offset())
    return H5Layout(places, memory.writes, memory.size)


class _Memory(io.RawIOBase):
    """A file that keeps what was written to it as (place, bytes); the rest of it is zeros."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, bytes]] = []
        self.size = self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self.writes.append((self._at, bytes(data)))
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def readinto(self, out: Any) -> int:
        view = memoryview(out).cast("B")
        view[:] = bytes(len(view))
        for at, data in self.writes:
            start, stop = max(at, self._at), min(at + len(data), self._at + len(view))
            if start < stop:
                view[start - self._at : stop - self._at] = data[start - at : stop - at]
        self._at += len(view)
        return len(view)
