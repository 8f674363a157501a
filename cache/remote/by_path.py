"""A path in a cache → the object store that its folder stands for, if it does; and changes of files that go to both."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.cache.remote.address import Address, parse_address
from crossllm.cache.remote.mirror import Mirror

MARKER = ".object-store.json"
"""In the folder: which cache it stands for, and how much of its rows may be held."""


def mirror_of(path: Path) -> Mirror | None:
    """The cache in an object store that a folder stands for, or lies in; None for a cache on this machine."""
    folder = marked_folder(path)
    return None if folder is None else _known(folder, (folder / MARKER).stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def marked_folder(path: Path) -> Path | None:
    """The folder with a marker that a path is, or lies in; kept, as every segment that is opened asks."""
    return next((folder for folder in (path, *path.parents)[:5] if (folder / MARKER).exists()), None)


def publish(path: Path, data: bytes | Iterable[bytes]) -> bool:
    """`fsio.publish`, into the object store first where the folder stands for a cache there."""
    if (mirror := mirror_of(path.parent)) is not None:
        data = data if isinstance(data, bytes) else b"".join(data)
        mirror.put(path, data)
    return fsio.publish(path, data)


def publish_large(path: Path, data: Iterable[bytes]) -> None:
    """`fsio.publish`, and then into the object store, of a file too large for memory that readers can do without."""
    fsio.publish(path, data)
    if (mirror := mirror_of(path.parent)) is not None:
        try:
            mirror.put_file(path)
        except BaseException:
            fsio.remove_file(path)
            raise


def replace(path: Path, data: bytes) -> None:
    """`fsio.replace`, in the object store first where the folder stands for a cache there."""
    if (mirror := mirror_of(path.parent)) is not None:
        mirror.replace(path, data)
    fsio.replace(path, data)


def discard(path: Path) -> None:
    """`fsio.remove_file`, and of the object."""
    if (mirror := mirror_of(path.parent)) is not None:
        mirror.discard(path)
    fsio.remove_file(path)


@lru_cache(maxsize=64)
def _known(folder: Path, _version: int) -> Mirror:
    said = parse_json(read_bytes(folder / MARKER, 1 << 12), folder / MARKER)
    address, bound = parse_address(str(said.get("url"))), said.get("bytes")
    if not isinstance(address, Address) or type(bound) is not int:
        raise CacheCorrupt(f"{folder / MARKER}: names no cache; remove {folder}, it holds copies alone")
    return Mirror(folder, address, bound)
