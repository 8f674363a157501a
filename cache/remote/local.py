"""Files of this machine that are copies of objects.  Nothing is synced: what a power loss takes is fetched again.

Every byte is checked by its crc32c when it is used, so a copy that is torn or old is noticed there.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.files import fsio


def make_folder(folder: Path) -> None:
    """A folder, and those above it, that is there afterwards."""
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def passing_folder(root: Path) -> Iterator[Path]:
    """A new folder that is removed afterwards, with all that is in it by then."""
    with tempfile.TemporaryDirectory(prefix=".fresh-", dir=root, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def make_private(folder: Path) -> None:
    """A folder that is there afterwards, closed to others where it is made here."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def keep(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Put a copy of an object, its bytes or pieces of them, at `path`, whole at every instant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{fsio.new_name()}")
    try:
        with open(temporary, "xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Unlink a file if it is there; whoever has it open or mapped keeps it."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def touch(path: Path) -> None:
    """Note that a file was used just now."""
    with suppress(OSError):
        os.utime(path)


class LetGo(Exception):
    """The file was closed, as its space was needed; whoever needs it opens it again."""


class SparseFile:
    """A file of a given size in which what was not written takes no space; made where it is absent.

    Several threads and processes may use it at once, and any of them close it.  One of another size is taken for
    damaged and made anew.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        if os.fstat(self._descriptor).st_size != size:
            self.close()
            remove(path)
            self._descriptor = self._open()
            os.ftruncate(self._descriptor, size)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | fsio.NO_FOLLOW | fsio.BINARY
        descriptor = os.open(self.path, flags, 0o666)
        if os.fstat(descriptor).st_size == 0:
            os.ftruncate(descriptor, self.size)
        return descriptor

    @property
    def removed(self) -> bool:
        """Whether it has lost its name: somebody needed the space."""
        with self._lock:
            return self._descriptor < 0 or os.fstat(self._descriptor).st_nlink == 0

    def write(self, data: bytes | memoryview, at: int) -> None:
        """Write `data` at a place."""
        view = memoryview(data).cast("B")
        with self._lock:
            while len(view):
                try:
                    count = os.pwrite(self._open_one(), view, at)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
                view, at = view[count:], at + count

    def read(self, count: int, at: int) -> bytes:
        """What stands at a place; zeros where nothing was written."""
        with self._lock:
            return os.pread(self._open_one(), count, at)

    def map(self) -> NDArray[np.uint8]:
        """All bytes, shape (size,), shared with whoever writes them."""
        return np.frombuffer(mmap.mmap(self._descriptor, self.size), np.uint8)

    def close(self) -> None:
        """Give the descriptor back; maps stay."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _open_one(self) -> int:
        if self._descriptor < 0:
            raise LetGo
        return self._descriptor

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def space_of(path: Path) -> int:
    """Bytes that a file takes on the disk; 0 where it is gone."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
