"""SHA-256 of files of weights: computed once while a file stays what it is, and held to the one kept beside it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt, InputError

SHOWN_FROM = 1 << 30
"""Bytes from which hashing shows a bar: about a second's work."""
_SETTLED = 2_000_000_000
"""Nanoseconds after a file's last change from which a further change must move its times (FAT counts two seconds)."""
_MAX_KEPT = 4096


class Identity(NamedTuple):
    """What a file is known by without being read: whoever writes to it, or swaps it, changes one of these."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """The identity that a stat tells."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


_known: dict[Identity, str] = {}
"""Digests computed by this process."""


def file_digest(file: BufferedReader, path: Path, quiet: bool = False) -> str:
    """SHA-256 of an open file, 64 hex digits; of one that is as it was when this process read it, without reading.

    A file changed less than two seconds ago is read each time: its times may not tell a further change.

    Raises:
        InputError: it was changed meanwhile.
    """
    before = Identity.of(os.fstat(file.fileno()))
    if before in _known:
        return _known[before]
    started = time.time_ns()
    digest = hashlib.sha256()
    with _bar(before.size, path, quiet) as done:
        buffer = memoryview(bytearray(1 << 20))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done(count)
    if Identity.of(os.fstat(file.fileno())) != before:
        raise InputError(changed_while_read(path))
    if started - max(before.modified_ns, before.changed_ns) > _SETTLED:
        _known[before] = digest.hexdigest()
    return digest.hexdigest()


def changed_while_read(path: Path) -> str:
    """What is said of weights that are no longer those that the recipe was settled for."""
    return f"--weights {path}: was changed while it was read; run the same command again"


@contextmanager
def _bar(size: int, path: Path, quiet: bool) -> Iterator[Callable[[int], object]]:
    if size < SHOWN_FROM:
        yield lambda _: None
        return
    with byte_progress(size, f"checking {path.name}", quiet) as done:
        yield done


def kept_path(path: Path) -> Path:
    """Where a file's digest is kept: beside it, in the form that `sha256sum --check` reads."""
    return path.with_name(f"{path.name}.sha256")


def kept_line(path: Path, digest: str) -> bytes:
    """What stands in `kept_path`."""
    return f"{digest}  ".encode() + os.fsencode(path.name) + b"\n"


def kept_digest(path: Path) -> str | None:
    """The digest kept beside a file, lower case; None where none is.

    Raises:
        CacheCorrupt: what stands there is no digest.
    """
    beside = kept_path(path)
    try:
        with beside.open("rb") as file:
            found = file.read(_MAX_KEPT)
    except FileNotFoundError:
        return None
    first = re.match(rb"\s*([0-9A-Fa-f]{64})(\s|$)", found)
    if first is None:
        raise CacheCorrupt(f"{beside}: holds no SHA-256; delete it, and check {path.name} by other means")
    return first[1].decode().lower()


def refuse_changed(path: Path, digest: str) -> None:
    """Raise `CacheCorrupt` where a digest is kept beside a file and its bytes have another."""
    kept = kept_digest(path)
    if kept not in (None, digest):
        raise CacheCorrupt(
            f"{path}: its SHA-256 is {digest}, {kept} is kept beside it; it was changed: delete it and get it again"
        )
