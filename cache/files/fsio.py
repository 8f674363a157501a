"""Every system call that changes a file of a cache: the one place for fault injection, and for Windows.

The order of a commit (DESIGN section 2) is built from these four: `make_new_dir`, `SyncedFile`, `sync_dir`,
`publish`.  After a failed fsync the file is abandoned, never synced again: a retry may succeed falsely.
Calls go through this module's name `os`, which tests replace by one that fails, stops or keeps a log.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

from awscrt import checksums
from numpy.typing import NDArray

WINDOWS = sys.platform == "win32"
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system answers where nothing more can be written."""
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL})
"""What a folder answers in which no killed writer can have made one: not ours to list, read-only, an automount."""
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)


def crc32c(data: bytes | NDArray[Any], start: int = 0) -> int:
    """CRC-32C (Castagnoli) of contiguous `data`, continuing from `start`; other threads run meanwhile if it is long."""
    return int(checksums.crc32c(data, start))


def unnamed_file() -> IO[bytes]:
    """A file in the temporary folder (`TMPDIR`) that nobody else sees and that goes with its last descriptor."""
    return tempfile.TemporaryFile(buffering=0)


def new_name() -> str:
    """32 hex digits, 128 random bits: a name no other writer will take."""
    return secrets.token_hex(16)


def make_new_dir(path: Path) -> None:
    """Create a folder that must not exist: `mkdir` is the exclusion between writers."""
    os.mkdir(path)


def make_dirs(path: Path) -> None:
    """Create a folder and its parents where absent, each entry synced into its parent before anything is made in it.

    The innermost folder that is there is synced into its parent as well: whoever made it may have been killed, or be
    about to do the same.  Those above it were synced before it was made.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    try:
        sync_dir(path.parent)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():
                raise
        sync_dir(folder.parent)


def sync_dir(path: Path) -> None:
    """Fsync a folder, so that the names in it survive a power loss (a no-op on Windows, which cannot)."""
    if WINDOWS:
        return
    _sync(path, os.O_RDONLY)


def sync_file(path: Path) -> None:
    """Fsync a file that a library has written."""
    _sync(path, os.O_RDWR | BINARY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    with _named(path):
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _named(path: Path, wanted: int = 0) -> Iterator[None]:
    """Give the error of a call on a descriptor its file's name and, where space is short, the bytes still `wanted`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        more = f" for {wanted} more bytes" if wanted and error.errno in NO_SPACE else ""
        raise OSError(error.errno, f"{error.strerror}{more}", str(path)) from error


class SyncedFile:
    """A new file, written once from front to back, its size and crc32c known when it is closed and on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.crc = path, 0, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY
        self._descriptor = os.open(path, flags, 0o666)

    def write(self, data: bytes | NDArray[Any]) -> None:
        """Append `data`; a short write is continued."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self.crc = crc32c(data, self.crc)
        self.size += len(view)
        while len(view):
            with _named(self.path, len(view)):
                view = view[os.write(self._descriptor, view) or _nothing_written() :]

    def close(self, *, sync: bool = True) -> None:
        """Close, after an fsync unless the file is abandoned (`sync=False`)."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        with _named(self.path):
            try:
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def __enter__(self) -> SyncedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        with suppress(OSError) if kind else nullcontext():  # what went wrong first is what is to be said
            self.close(sync=kind is None)


def _nothing_written() -> NoReturn:
    raise OSError(errno.EIO, "nothing was written, and no error given")


def publish(path: Path, data: bytes | Iterable[bytes]) -> bool:
    """Make `path` appear, whole and on disk, or not at all; False when the name is taken already.

    `data` may come in pieces, so that a large file is never in memory.

    Temporary file, fsync, `link(2)`, which fails if the name exists, fsync of the folder.  Where there are no hard
    links the file is renamed: of two that take the same name in the same instant, the later one stays.
    """
    with _temporary(path, data) as temporary:
        given = _give_name(temporary, path)
    sync_dir(path.parent)  # also where the name is taken: who took it may have been killed before this
    return given


@contextmanager
def _temporary(path: Path, data: bytes | Iterable[bytes]) -> Iterator[Path]:
    """A file beside `path` with `data` in it, on disk, that is gone at the end if it still has this name."""
    temporary = path.with_name(f".tmp-{new_name()}")
    try:
        with SyncedFile(temporary) as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
        yield temporary
    except BaseException:
        with suppress(OSError):  # what went wrong first is what is to be said
            remove_file(temporary)
        raise
    remove_file(temporary)


def _give_name(temporary: Path, path: Path) -> bool:
    """Whether a finished file now has the name `path`, besides its own or in place of it; False where it is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


def move_new(temporary: Path, path: Path) -> bool:
    """Give a finished file or folder beside it the name `path`; False, and nothing moved, when the name is taken."""
    if os.path.lexists(path):
        return False
    if temporary.is_dir():
        os.rename(temporary, path)
    else:
        if not _give_name(temporary, path):
            return False
        remove_file(temporary)
    sync_dir(path.parent)
    return True


def replace(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Put `data` at `path` in place of what stands there, whole at every instant (temp, fsync, rename, fsync).

    `data` may come in pieces, as for `publish`.
    """
    with _temporary(path, data) as temporary:
        os.replace(temporary, path)
    sync_dir(path.parent)


def put_in_place(finished: Path, path: Path) -> None:
    """Give a finished file of the same file system the name `path`, in place of what stands there (fsync, rename)."""
    sync_file(finished)
    os.replace(finished, path)
    sync_dir(path.parent)


class Lock:
    """A file that this process has for itself until `close`, or until it ends, however that comes about.

    Where the file system knows no locks it holds nobody off.

    Raises:
        BlockingIOError: somebody else has it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        try:
            if WINDOWS:
                import msvcrt

                msvcrt.locking(self._file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                self.close()
                raise BlockingIOError(error.errno, error.strerror, str(path)) from None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                self.close()
                raise

    def close(self) -> None:
        """Let it go; once is enough."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def link_file(source: Path, target: Path) -> None:
    """A second name of a file's bytes, or a new file that shares them (a reflink) where no such name can be given.

    The caller syncs the folder.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # another volume of Btrfs, a file of somebody else's, too many names: a reflink may do
        if not _clone(source, target):
            raise


_FICLONE = 0x40049409
"""Linux's ioctl: let a file have the bytes of another without copying them (ioctl_ficlone(2))."""


def _clone(source: Path, target: Path) -> bool:
    """Whether `target` now is a file that shares the bytes of `source`, on disk; nothing is left where it is not."""
    if sys.platform != "linux":
        return False
    import fcntl

    new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)
    try:
        old = os.open(source, os.O_RDONLY | NO_FOLLOW)
        try:
            fcntl.ioctl(new, _FICLONE, old)
        finally:
            os.close(old)
        os.fsync(new)
    except OSError:
        remove_file(target)
        return False
    finally:
        os.close(new)
    return True


def remove_file(path: Path) -> None:
    """Unlink a file if it is there; whoever has it mapped or open keeps it."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: Path) -> None:
    """Unlink a folder and what is in it, innermost first, if it is there; links are unlinked, not followed."""
    with suppress(FileNotFoundError):
        for name in os.listdir(path):
            inner = path / name
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                remove_tree(inner)
            else:
                remove_file(inner)
        os.rmdir(path)
