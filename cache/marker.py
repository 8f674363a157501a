"""Who is writing a segment: a small file beside its folder, there until the segment is committed or abandoned.

It holds nothing that readers need; `crossllm cache gc` tells by it whether an uncommitted folder is still wanted.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil

from cache import fsio


def marker_path(recipe_dir: Path, segment: str) -> Path:
    """Where the marker of a segment stands."""
    return recipe_dir / "segments" / f".writer-{segment}.json"


def mark(recipe_dir: Path, segment: str) -> None:
    """Note that this process writes a segment, before its folder is made."""
    started = psutil.Process().create_time()
    body = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    with fsio.SyncedFile(marker_path(recipe_dir, segment)) as file:
        file.write(json.dumps(body).encode())
        file.close(sync=False)  # lost in a power loss, it is no longer needed: its writer is gone too


def unmark(recipe_dir: Path, segment: str) -> None:
    """The segment is committed, or gone."""
    fsio.remove_file(marker_path(recipe_dir, segment))
