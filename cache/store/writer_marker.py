"""Who is writing a segment: a small file beside its folder, there until the segment is committed or abandoned.

It holds nothing that readers need; `crossllm cache gc` tells by it whether an uncommitted folder is still wanted.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import psutil

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json

WEEK = 7 * 24 * 3600.0
"""Seconds after which what nobody is known to write is taken for left behind."""
_SAME_START = 3600.0
"""Seconds by which the start of one process may seem to move: it is told in wall-clock time, which is set now and
then.  A process that took over the number within this time is taken for the writer: its leftovers wait, no more."""
_MAX_BYTES = 1 << 12


def marker_path(recipe_dir: Path, segment: str) -> Path:
    """Where the marker of a segment stands."""
    return recipe_dir / "segments" / f".writer-{segment}.json"


def mark(recipe_dir: Path, segment: str) -> None:
    """Note that this process writes a segment, before its folder is made."""
    started = psutil.Process().create_time()
    body = {"host": _machine(), "pid": os.getpid(), "started": started}
    with fsio.SyncedFile(marker_path(recipe_dir, segment)) as file:
        file.write(json.dumps(body).encode())
        file.close(sync=False)  # lost in a power loss, it is no longer needed: its writer is gone too


def unmark(recipe_dir: Path, segment: str) -> None:
    """The segment is committed, or gone."""
    fsio.remove_file(marker_path(recipe_dir, segment))


def may_be_written(recipe_dir: Path, segment: str) -> bool:
    """Whether somebody may still be writing this segment: an uncommitted folder or a marker that must stay.

    Nobody is when its writer is known to be a dead process of this host, or when neither the folder, what is in it,
    nor the marker has changed for a week and no process of this host is known to write it.
    """
    alive = _writer_alive(marker_path(recipe_dir, segment))
    if alive is not None:
        return alive
    return is_young(recipe_dir / "segments" / segment) or is_young(marker_path(recipe_dir, segment))


def remove_abandoned(recipe_dir: Path) -> None:
    """Remove what killed writers have left in a folder that stands for an object store: nobody collects garbage there.

    What was committed all the same is fetched again.
    """
    folder = recipe_dir / "segments"
    for path in folder.glob(".writer-*.json"):
        segment = path.stem.removeprefix(".writer-")
        if not may_be_written(recipe_dir, segment):
            if not (recipe_dir / "commits" / f"{segment}.json").exists():
                fsio.remove_tree(folder / segment)
            unmark(recipe_dir, segment)


def is_young(path: Path) -> bool:
    """Whether a file, or a folder or anything in it, was changed less than a week ago; False where nothing is."""
    try:
        changed = os.lstat(path).st_mtime
        inner = list(os.scandir(path)) if path.is_dir() and not path.is_symlink() else []
    except FileNotFoundError:
        return False
    return time.time() - changed < WEEK or any(is_young(Path(entry.path)) for entry in inner)


def _writer_alive(path: Path) -> bool | None:
    """Whether the process that a marker names lives; None where that cannot be told from here."""
    try:
        body = parse_json(read_bytes(path, _MAX_BYTES), path)
    except (FileNotFoundError, CacheCorrupt):
        return None
    pid, started = body.get("pid"), body.get("started")
    if body.get("host") != _machine() or type(pid) is not int or type(started) is not float:
        return None
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < _SAME_START)
    except psutil.NoSuchProcess:
        return None if _is_hidden(pid) else False
    except psutil.Error:
        return None


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process after all, of another user where /proc shows one's own only (`hidepid`)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _machine() -> str:
    """The host's name, and on Linux its boot and PID namespace.

    The number of a process says nothing about one of another container, or of another machine of the same name.
    """
    name = socket.gethostname()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{name} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return name
