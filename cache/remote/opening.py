"""`open_cache`: an address → the folder of this machine that stands for it, up to date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError
from crossllm.cache.files.paths import is_url
from crossllm.cache.remote import local
from crossllm.cache.remote.address import Address, parse_address
from crossllm.cache.remote.by_path import MARKER, marked_folder, mirror_of
from crossllm.folders import temporary, user_cache

HELD_BYTES = 16 << 30
"""Rows of caches in object stores that are held on this machine, unless more or less is asked for."""


def open_cache(where: str | Address, local_dir: Path | None = None, held_bytes: int = HELD_BYTES) -> Path:
    """The folder that stands for a cache in an object store; give it wherever the folder of a cache is taken.

        reader = CacheReader(open_cache("s3://bucket/name"), recipe)

    Args:
        where: s3://, gs:// or az://BUCKET/NAME; of file:///PATH the path is the folder.
        local_dir: where copies are kept; None: below the user's cache folder.
        held_bytes: of rows, over all caches in `local_dir`.

    Raises:
        InputError: no address, no obstore, access refused, or no place for copies.
        OSError: the store does not answer.
    """
    address = parse_address(where) if isinstance(where, str) else where
    if isinstance(address, Path):
        return address
    root = local_dir or default_local()
    name = address.prefix.rpartition("/")[2]
    told_apart = hashlib.sha256(f"{address}\n{address.endpoint()}".encode()).hexdigest()[:16]
    # Resolved: a process that works in another folder, or a worker that is started anew, finds it too.
    folder = root.absolute() / f"{name[:40]}-{told_apart}"
    local.make_private(folder)
    marker = json.dumps({"url": str(address), "bytes": held_bytes}).encode()
    if not (folder / MARKER).exists() or (folder / MARKER).read_bytes() != marker:
        local.keep(folder / MARKER, marker)
        marked_folder.cache_clear()
    mirror = mirror_of(folder)
    assert mirror is not None
    mirror.refresh()
    return folder


@contextmanager
def fresh_copy(address: Address, local_dir: Path | None, held_bytes: int) -> Iterator[Path]:
    """As `open_cache`, into an empty folder that is removed afterwards: what is read comes from the store."""
    root = local_dir or default_local()
    local.make_private(root)
    with local.passing_folder(root.absolute()) as folder:
        yield open_cache(address, folder, held_bytes)


def default_local() -> Path:
    """Where copies are kept unless a folder is named.

    Raises:
        InputError: the user has no folder for it.
    """
    base = user_cache()
    if base is not None:
        return base / "crossllm" / "caches"
    if (base := temporary()) is None:
        raise InputError("--cache-local: no cache folder of this user can be written; name a folder for the copies")
    return base / "caches"


class CacheName(NamedTuple):
    """A cache as another process is told of it, perhaps on another machine; JSON holds it as a list."""

    where: str
    """Absolute path, or address."""
    local_dir: str | None = None
    """Of an address: where copies are kept; None: where that machine keeps them by itself."""
    held_bytes: int = HELD_BYTES


def name_of(folder: Path) -> CacheName:
    """What another process is told of a cache that is open here."""
    if (mirror := mirror_of(folder)) is None:
        return CacheName(str(folder.absolute()))
    root = mirror.folder.parent
    with suppress(InputError):
        if root == default_local().absolute():
            return CacheName(str(mirror.address), None, mirror.bound)
    return CacheName(str(mirror.address), str(root), mirror.bound)


def open_named(name: CacheName) -> Path:
    """The folder of a cache that another process has named.

    Raises:
        InputError, OSError: as `open_cache`.
    """
    if is_url(name.where):
        return open_cache(name.where, None if name.local_dir is None else Path(name.local_dir), name.held_bytes)
    return Path(name.where)


def shown(folder: Path) -> str:
    """A cache as its user named it: the address that a folder stands for, else the folder."""
    mirror = mirror_of(folder)
    return str(folder) if mirror is None else str(mirror.address)
