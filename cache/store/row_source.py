"""Where the rows of a segment are read from: the mapped file, the file by `pread`, or zarr-python.  All give the same.

Shapes: (L, D) rows `start` to `stop` of the segment, in its storage dtype, little-endian.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from crossllm.cache.errors import CacheCorrupt, one_line
from crossllm.cache.files.plain_file import PlainFile

IO = Literal["mmap", "pread"]
"""`mmap`: views, no copy.  `pread`: copies; a file that shrinks under a reader is an error there, not a signal."""


class Rows(Protocol):
    """What a segment reads its rows from."""

    steady: bool
    """Whether it reads one open file, whose bytes stay; what is opened by name again may be another file by then."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, read-only."""

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill `out`, shape (L, D) and C-contiguous, with the rows from `start` on."""

    def prefetch(self, start: int, stop: int) -> None:
        """Tell the system that these rows are wanted soon."""


def plain_rows(file: PlainFile, at: int, shape: tuple[int, int], dtype: np.dtype[Any], io: IO) -> Rows:
    """Rows that lie in a file as they are, from byte `at` on."""
    return MappedRows(file, at, shape, dtype) if io == "mmap" else PreadRows(file, at, shape, dtype)


class MappedRows:
    """Views of the mapped file."""

    steady = True

    def __init__(self, file: PlainFile, at: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._file, self._at, self._row_bytes = file, at, shape[1] * dtype.itemsize
        self._rows = file.map()[at : at + shape[0] * self._row_bytes].view(dtype).reshape(shape)
        file.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`: no copy."""
        return self._rows[start:stop]

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Copy rows from `start` on; other threads run meanwhile."""
        np.copyto(out, self._rows[start : start + len(out)])

    def prefetch(self, start: int, stop: int) -> None:
        """Read ahead into the page cache, which the map shares."""
        self._file.prefetch(self._at + start * self._row_bytes, (stop - start) * self._row_bytes)


class PreadRows:
    """Copies, read by place."""

    steady = True

    def __init__(self, file: PlainFile, at: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._file, self._at, self._dim, self._dtype = file, at, shape[1], dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, a copy."""
        rows = np.empty((stop - start, self._dim), self._dtype)
        self.read_into(start, rows)
        rows.flags.writeable = False
        return rows

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Read rows from `start` on straight into `out`; other threads run meanwhile."""
        self._file.read_into(out.reshape(-1).view(np.uint8), self._at + start * self._dim * self._dtype.itemsize)

    def prefetch(self, start: int, stop: int) -> None:
        """Read ahead into the page cache."""
        row_bytes = self._dim * self._dtype.itemsize
        self._file.prefetch(self._at + start * row_bytes, (stop - start) * row_bytes)


class ZarrRows:
    """Copies made by zarr-python, for a shard that is compressed or in another order."""

    steady = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array: Any = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, a copy."""
        try:
            if self._array is None:
                import zarr

                self._array = zarr.open_array(str(self._path), mode="r", zarr_format=3)
            rows: np.ndarray = np.ascontiguousarray(self._array[start:stop])
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # a decoder may raise anything at damaged bytes
            raise CacheCorrupt(
                f"{self._path}: zarr-python cannot read rows {start} to {stop}: {one_line(error)}"
            ) from error
        rows.flags.writeable = False
        return rows

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Copy what zarr-python decodes."""
        np.copyto(out, self.read(start, start + len(out)))

    def prefetch(self, start: int, stop: int) -> None:
        """Nothing: which chunks these are is zarr-python's to know."""
