"""Reading files of a cache: small ones whole, others mapped or by place.  No link is followed, sizes are checked."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.errors import VERIFY, CacheCorrupt
from crossllm.cache.files.fsio import BINARY, NO_FOLLOW


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links are not followed, larger files are refused unread."""
    descriptor, found = _open_plain(path)
    with os.fdopen(descriptor, "rb") as file:
        if found > limit:
            raise CacheCorrupt(f"{path}: {found} bytes where at most {limit} are expected; it is damaged or foreign")
        return file.read(found)


class Readable(Protocol):
    """What gives bytes by place: a `PlainFile`, or a file that is fetched meanwhile."""

    path: Path
    size: int

    def read(self, count: int, at: int) -> bytes:
        """`count` bytes from place `at` on."""


class PlainFile:
    """A plain file of a known size, open for reading at any place; a file of another size is refused."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._map: mmap.mmap | None = None
        try:
            self._descriptor, found = _open_plain(path)
        except FileNotFoundError:
            raise CacheCorrupt(f"{path}: missing, though its commit record names it; {VERIFY}") from None
        if found != size:
            self.close()
            raise CacheCorrupt(f"{path}: {found} bytes where the commit record says {size}; {VERIFY}")

    def map(self) -> NDArray[np.uint8]:
        """A read-only view of all its bytes, shape (size,), which stays when the file is closed or unlinked."""
        if self.size == 0:
            return np.empty(0, np.uint8)
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8)

    def read_into(self, out: NDArray[np.uint8], at: int) -> None:
        """Fill `out`, shape (n,), with the bytes from place `at` on; a file cut since it was opened is damage."""
        if not hasattr(os, "preadv"):  # Windows
            np.copyto(out, self.map()[at : at + len(out)])
            return
        view = memoryview(out)  # type: ignore[arg-type]
        while len(view):
            count = os.preadv(self._descriptor, [view], at)
            if count == 0:
                raise CacheCorrupt(f"{self.path}: was cut since it was opened, byte {at} of {self.size} is gone")
            view, at = view[count:], at + count

    def read(self, count: int, at: int) -> bytes:
        """`count` bytes from place `at` on."""
        out = np.empty(count, np.uint8)
        self.read_into(out, at)
        return out.tobytes()

    def prefetch(self, at: int, count: int) -> None:
        """Tell the system that these bytes are wanted soon; a hint, where the system takes hints."""
        if self._map is not None and hasattr(mmap, "MADV_WILLNEED"):
            start = at - at % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, at + count - start)
        elif self._map is None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, at, count, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Give the descriptor back; maps stay."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def _open_plain(path: Path) -> tuple[int, int]:
    """Descriptor and size of a plain file; a link, a folder or a pipe in its place is damage."""
    try:
        descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW | BINARY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            raise CacheCorrupt(
                f"{path}: {error.strerror}; a plain file is expected here, neither link nor folder"
            ) from None
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise CacheCorrupt(f"{path}: is no plain file; neither a link nor a folder, pipe or device is read here")
    return descriptor, found.st_size
