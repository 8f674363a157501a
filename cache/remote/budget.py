"""The bound on the rows that are held on this machine: what was used longest ago goes first, a segment at a time.

Commit records and indexes are not counted: some 50 bytes a sequence, without which nothing can be found.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from crossllm.cache.remote import local
from crossllm.cache.remote.held_file import MAP, HeldFile

LARGE = ("rows/c/0/0", "segment.h5")
"""The file of a segment that holds its rows, in either store."""


class Budget:
    """Of all caches below one folder, for this process; others are seen when the files are counted."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock = root, Lock()
        self._left = 0
        """Bytes that may be fetched before the files are counted again."""

    def take(self, count: int, bound: int, own: Path) -> None:
        """Make room for `count` bytes more below `bound`.

        The segment of `own`, which they are for, stays, and so does what other threads are reading at this moment: a
        segment for each of them is the least that is held, whatever the bound.
        """
        with self._lock:
            self._left -= count
            if self._left >= 0:
                return
            held = self._held()
            total = count + sum(size for _, size, _ in held)
            for _, size, folder in held:
                if total <= bound:
                    break
                if folder not in own.parents and evict(folder):
                    total -= size
            # An eighth at most: other processes fetch too, and each counts for itself.
            self._left = min(max(0, bound - total), bound // 8)

    def _held(self) -> list[tuple[float, int, Path]]:
        """Last use, size and folder of every segment of which rows are held, the longest ago first."""
        found = []
        for path in self._root.glob(f"*/embeddings/*/*/segments/*/{MAP}"):
            folder = path.parent
            try:
                used = os.stat(path).st_mtime
            except FileNotFoundError:
                continue
            found.append((used, sum(local.space_of(folder / name) for name in LARGE), folder))
        return sorted(found)


@cache
def budget_of(root: Path) -> Budget:
    """The one of a folder in this process."""
    return Budget(root)


_OPEN: dict[Path, WeakSet[HeldFile]] = {}
"""Those of this process; two readers of a cache have a file twice."""


def opened(held: HeldFile) -> HeldFile:
    """Note a file as open in this process, so that its space is given back when it is evicted."""
    _OPEN.setdefault(held.path, WeakSet()).add(held)
    return held


def evict(folder: Path) -> bool:
    """Let go of the rows of a segment; False where this process is reading them."""
    for name in LARGE:
        if not all(held.close() for held in list(_OPEN.get(folder / name, ()))):
            return False
    local.remove(folder / MAP)  # first: a map of grains that are gone would be taken for true
    for name in LARGE:
        local.remove(folder / name)
    return True
