"""Which folders of a cache are entered at all: no links inside a cache, nobody else's folder that is open to all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.cache.files import fsio


def list_folder(folder: Path) -> list[Path]:
    """What a folder of a cache holds, sorted; nothing where it is absent.

    Raises:
        CacheCorrupt: a link, a file or anything else stands in its place.
    """
    try:
        mode = os.lstat(folder).st_mode
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise CacheCorrupt(f"{folder.parent}: is no folder; put the folder in its place") from None
    if not stat.S_ISDIR(mode):
        what = "a link, none is followed here" if stat.S_ISLNK(mode) else "no folder"
        raise CacheCorrupt(f"{folder}: is {what}; put the folder itself in its place")
    return sorted(folder.iterdir())


def refuse_links(*folders: Path) -> None:
    """Raise `CacheCorrupt` where one of these is a link: the cache itself may be one, nothing inside it."""
    for folder in folders:
        if folder.is_symlink():
            raise CacheCorrupt(f"{folder}: is a link, none is followed here; put the folder itself in its place")


def refuse_shared(cache_dir: Path, flag: str = "--cache") -> None:
    """Raise `InputError` before writing into somebody else's folder in which anybody may replace what is written.

    One's own folder may be open to all, as umask 000 makes it.  Reading needs no such rule: every byte is checked.
    """
    found = cache_dir.stat()
    open_to_all = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if open_to_all and not fsio.WINDOWS and found.st_uid not in (os.geteuid(), 0):
        raise InputError(
            f"{cache_dir}: belongs to user {found.st_uid}, and anybody may replace files in it; "
            f"have its owner run `chmod o-w` or `chmod +t` on it, or use another {flag}"
        )
