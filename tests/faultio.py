"""A stand-in for the name `os` in `crossllm.cache.files.fsio`: it logs, kills, fails or stops at the n-th operation.

    with installed(FaultyOs(Kill(7))):
        embed_run(folder)           # dies at its seventh operation that changes something

An operation is what changes a file system, and what makes a change last: create, write, fsync, close, mkdir, link,
rename, unlink, rmdir.  Opening for reading is one only where it is to fail (`opens=True`).  They are numbered from 1.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from crossllm.cache.files import fsio

Kind = Literal[
    "create", "open", "write", "fsync", "fsync dir", "close", "mkdir", "link", "rename", "unlink", "rmdir", "truncate"
]
CHANGES: tuple[Kind, ...] = (
    "create", "write", "fsync", "fsync dir", "close", "mkdir", "link", "rename", "unlink", "rmdir",
    "truncate",
)  # fmt: skip
_NEEDS_SPACE = frozenset({"create", "write", "fsync", "fsync dir", "mkdir", "link", "rename"})
MAY_RAISE: dict[int, frozenset[str]] = {
    errno.ENOSPC: _NEEDS_SPACE,
    errno.EDQUOT: _NEEDS_SPACE | {"close"},
    errno.EIO: frozenset(CHANGES) | {"open"},
    errno.EMFILE: frozenset({"create", "open"}),
}
"""Which operations a system may answer so."""


class Op(NamedTuple):
    """One operation, as it was done."""

    kind: Kind | Literal["ack"]
    path: str
    """Of the file or folder; of a link or rename, the old name.  Of an ack, nothing."""
    to: str = ""
    """The new name."""
    data: bytes = b""
    """What was written, or the keys that were acknowledged."""
    at: int = -1
    """Place in the file, -1: where the last write ended.  Of a truncate, the new size; of a create, 0: what was
    there is emptied."""


class Kill(NamedTuple):
    """SIGKILL this process just before operation n, or in the midst of it: a write has written half of its bytes."""

    n: int
    midway: bool = False


class Fail(NamedTuple):
    """Operation n raises an error, or every operation from there on that can raise it."""

    n: int
    number: int
    """errno; 0: a write is cut short by half, which is no error."""
    sticky: bool = False


class Stop(NamedTuple):
    """From operation n on nothing is done any more: this writer was killed, the process goes on as another."""

    n: int


class Meanwhile(NamedTuple):
    """Just before operation n, something else is done by another process: this writer was slow."""

    n: int
    work: Callable[[], None]


class Stopped(BaseException):
    """A writer that `Stop` has stopped."""


class FaultyOs:
    """The functions of `os`, watched.  `log` holds what was done, with the bytes."""

    def __init__(
        self, fault: Kill | Fail | Stop | Meanwhile | None = None, *, opens: bool = False, log: list[Op] | None = None
    ) -> None:
        self.log: list[Op] = [] if log is None else log
        self.count = 0
        self.on_op: Callable[[int, Op], None] = lambda _n, _op: None
        """Told each operation before it is done."""
        self.raised = 0
        """How often the fault struck."""
        self.fault = fault
        self.links = True
        """Whether the file system has hard links."""
        self._opens = opens
        self._files: dict[int, tuple[str, bool]] = {}
        """Descriptor → path, and whether it is open for writing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        kind: Kind = "create" if flags & os.O_CREAT else "open"
        if kind == "open" and not self._opens:
            descriptor = os.open(path, flags, mode)
        else:
            op = Op(kind, str(path), at=0 if flags & os.O_TRUNC else -1)
            descriptor = self._do(op, lambda: os.open(path, flags, mode))
        self._files[descriptor] = (str(path), writes)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        return self._write(descriptor, data, -1, lambda part: os.write(descriptor, part))

    def pwrite(self, descriptor: int, data: Any, at: int) -> int:
        return self._write(descriptor, data, at, lambda part: os.pwrite(descriptor, part, at))

    def _write(self, descriptor: int, data: Any, at: int, call: Callable[[memoryview], int]) -> int:
        view = memoryview(data).cast("B")
        half = view[: len(view) // 2]
        op = Op("write", self._files[descriptor][0], data=bytes(view), at=at)
        match self.fault:
            case Kill(n, True) if n == self.count + 1:
                call(half)
            case Fail(n, 0, sticky) if len(half) and (self.count + 1 == n or (sticky and self.count + 1 > n)):
                self.raised += 1
                return int(self._do(op._replace(data=bytes(half)), lambda: call(half)))
        return int(self._do(op, lambda: call(view)))

    def fsync(self, descriptor: int) -> None:
        path = self._files[descriptor][0]
        self._do(Op("fsync dir" if Path(path).is_dir() else "fsync", path), lambda: os.fsync(descriptor))

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._do(Op("truncate", self._files[descriptor][0], at=size), lambda: os.ftruncate(descriptor, size))

    def close(self, descriptor: int) -> None:
        path, writes = self._files.pop(descriptor)
        if not writes:
            return os.close(descriptor)
        try:
            return self._do(Op("close", path), lambda: os.close(descriptor))
        except (OSError, Stopped):  # the descriptor is gone, whatever close() says
            os.close(descriptor)
            raise

    def mkdir(self, path: Path) -> None:
        self._do(Op("mkdir", str(path)), lambda: os.mkdir(path))

    def link(self, path: Path, to: Path) -> None:
        if not self.links:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
        self._do(Op("link", str(path), str(to)), lambda: os.link(path, to))

    def rename(self, path: Path, to: Path) -> None:
        self._do(Op("rename", str(path), str(to)), lambda: os.rename(path, to))

    def replace(self, path: Path, to: Path) -> None:
        self._do(Op("rename", str(path), str(to)), lambda: os.replace(path, to))

    def unlink(self, path: Path) -> None:
        self._do(Op("unlink", str(path)), lambda: os.unlink(path))

    def rmdir(self, path: Path) -> None:
        self._do(Op("rmdir", str(path)), lambda: os.rmdir(path))

    def unlogged(self, *_: object, **__: object) -> NoReturn:
        """What changes files and is not watched must not be called: teach it to this class first."""
        raise AssertionError("crossllm.cache.files.fsio calls what tests/faultio.py does not watch")

    truncate = remove = symlink = renames = makedirs = removedirs = sendfile = copy_file_range = unlogged
    writev = pwritev = lseek = posix_fallocate = fdatasync = sync = mknod = utime = chmod = unlogged

    def ack(self, keys: Sequence[bytes]) -> None:
        """An `on_commit` that puts the acknowledgement into the log, in its place among the operations."""
        self.log.append(Op("ack", "", data=b"".join(keys)))

    def revive(self) -> None:
        """After `Stop`: another process goes on."""
        self.fault = None

    def _do(self, op: Op, call: Callable[[], Any]) -> Any:
        self._strike(op)
        done = call()  # where it raises, e.g. as the name is taken, nothing was changed
        self.log.append(op)
        return done

    def _strike(self, op: Op) -> None:
        """Count an operation that is about to be done, and do what the fault says."""
        assert op.kind != "ack"
        self.count += 1
        self.on_op(self.count, op)
        match self.fault:
            case Kill(n) if n == self.count:
                os.kill(os.getpid(), signal.SIGKILL)
            case Stop(n) if self.count >= n:
                raise Stopped
            case Meanwhile(n, work) if n == self.count:
                self.fault = None
                work()
            case Fail(n, number, sticky) if number and (self.count == n or (sticky and self.count > n)):
                if op.kind in MAY_RAISE[number]:
                    self.raised += 1
                    named = op.kind not in ("write", "fsync", "fsync dir", "close")  # calls on a descriptor do not say
                    raise OSError(number, os.strerror(number), op.path if named else None)


@contextmanager
def installed(shim: FaultyOs) -> Iterator[FaultyOs]:
    """`crossllm.cache.files.fsio` calls the shim inside."""
    before = fsio.os
    fsio.os = shim  # type: ignore[assignment]
    try:
        yield shim
    finally:
        fsio.os = before
