"""A folder that one process at a time fills with results: taken for itself, and held to the settings it was begun with.

Of a run, of a run of several seeds, and of an ablation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossllm.cache.errors import CacheCorrupt, Conflict, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.pipeline.training.config import with_older_settings

_MAX_TOML = 256 << 20


def refuse_foreign(path: Path, what: str) -> None:
    """Raise `Conflict` where a folder holds something, and no `what` (a run, an ablation)."""
    if path.is_dir() and any(not found.name.startswith((".tmp-", ".lock")) for found in path.iterdir()):
        raise Conflict(f"{path}: is not empty and holds no {what}; name another folder by --out")


def take(path: Path, what: str) -> fsio.Lock:
    """The folder, made where it is not there, for this process until the lock is closed.

    Raises:
        Conflict: another process is at work in it.
    """
    fsio.make_dirs(path)
    try:
        return fsio.Lock(path / ".lock")
    except BlockingIOError:
        raise Conflict(f"{path}: another {what} is at work in it; wait for it, or name another --out") from None


def held_tables(path: Path) -> dict[str, Any]:
    """The tables of a settings file; a setting that is younger than the file had its default then.

    Raises:
        CacheCorrupt: it is no TOML.
    """
    try:
        held = tomllib.loads(read_bytes(path, _MAX_TOML).decode())
    except (ValueError, RecursionError) as error:
        raise CacheCorrupt(f"{path}: {error}; remove the folder and run again") from None
    return with_older_settings(held)


def differences(held: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """`name (asked, there held)` of every setting that is not the same."""
    for name in sorted(held.keys() | asked.keys()):
        mine, theirs = asked.get(name), held.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            yield from differences(theirs, mine, f"{prefix}{name}.")
        elif mine != theirs:
            yield f"{prefix}{printable(name)} ({printable(str(mine))}, there {printable(str(theirs))})"
