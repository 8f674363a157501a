"""Which folders of a cache are entered at all: no links inside a recipe, nobody else's folder that is open to all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cache import fsio
from cache.errors import CacheCorrupt, InputError


def refuse_links(*folders: Path) -> None:
    """Raise `CacheCorrupt` where one of these is a link: the cache itself may be one, nothing inside a recipe."""
    for folder in folders:
        if folder.is_symlink():
            raise CacheCorrupt(f"{folder}: is a link, none is followed here; put the folder itself in its place")


def refuse_shared(cache_dir: Path) -> None:
    """Raise `InputError` before writing into somebody else's folder in which anybody may replace what is written.

    One's own folder may be open to all, as umask 000 makes it.  Reading needs no such rule: every byte is checked.
    """
    found = cache_dir.stat()
    open_to_all = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if open_to_all and not fsio.WINDOWS and found.st_uid not in (os.geteuid(), 0):
        raise InputError(
            f"{cache_dir}: belongs to user {found.st_uid}, and anybody may replace files in it; "
            f"have its owner run `chmod o-w` or `chmod +t` on it, or use another --cache"
        )
