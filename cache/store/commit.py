"""The commit record: the one small file that publishes a segment.  A segment without one does not exist."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from crossllm.cache.errors import VERIFY, CacheCorrupt, InputError, one_line
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import list_folder, refuse_links
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store.layout import Store
from crossllm.cache.store.recipe import FORMAT

HEX32 = re.compile(r"[0-9a-f]{32}")
FILES = frozenset(
    {"zarr.json", "rows/c/0/0", "offsets/c/0", "digest/c/0/0", "crc32c/c/0"}
    | {f"{array}/zarr.json" for array in ("rows", "offsets", "digest", "crc32c")}
)
"""Every Zarr segment has these files, and its commit record names each."""
H5 = "segment.h5"
"""The only file of an HDF5 segment."""
PARTS = frozenset({"rows", "offsets", "digest", "crc32c"})
"""The arrays whose places the commit record of an HDF5 segment gives."""
_MAX_JSON = 8 << 20
_MAX_INT = 1 << 53


class FileSum(NamedTuple):
    """Size and CRC-32C of one file of a segment."""

    bytes: int
    crc32c: int


class Part(NamedTuple):
    """Where one array of an HDF5 segment lies in its file, as it is: contiguous and uncompressed."""

    at: int
    bytes: int
    crc32c: int


class Written(NamedTuple):
    """The files of a segment, all on disk."""

    files: dict[str, FileSum]
    """Path within the segment → size and checksum."""
    parts: dict[str, Part]
    """Array → its place in the file, of an HDF5 segment."""


class Commit(NamedTuple):
    """What a commit record says."""

    segment: str
    """Name of the segment's folder, 32 hex digits."""
    recipe: str
    """Full digest of the recipe."""
    recipe_crc32c: int
    """Of the bytes of recipe.json."""
    records: int
    rows: int
    files: dict[str, FileSum]
    """Path within the segment → size and checksum, for every file of it."""
    supersedes: tuple[str, ...] = ()
    """Segments that this one replaces; readers ignore them."""
    parts: Mapping[str, Part] = MappingProxyType({})
    """Array → its place in the file, of an HDF5 segment."""

    @property
    def bytes(self) -> int:
        """On disk, all files of the segment."""
        return sum(found.bytes for found in self.files.values())

    @property
    def store(self) -> Store:
        """Whether the segment is a Zarr group or an HDF5 file."""
        return "h5" if H5 in self.files else "zarr"


def publish_commit(recipe_dir: Path, commit: Commit) -> None:
    """Publish a segment whose files and folders are on disk already: the last step of a commit.

    In a folder that stands for a cache in an object store the files are uploaded, and the record last.
    """
    body: dict[str, Any] = {
        "format": FORMAT,
        "segment": commit.segment,
        "recipe": commit.recipe,
        "recipe_crc32c": commit.recipe_crc32c,
        "records": commit.records,
        "rows": commit.rows,
        "files": {path: list(found) for path, found in sorted(commit.files.items())},
        "supersedes": list(commit.supersedes),
        "writer": {"host": socket.gethostname(), "pid": os.getpid()},
    }
    if commit.parts:
        body["parts"] = {name: list(part) for name, part in sorted(commit.parts.items())}
    mirror = mirror_of(recipe_dir)
    if mirror is not None:
        body["writer"]["write_id"] = fsio.new_name()  # by it a record is told to be this very try's
    body["crc32c"] = fsio.crc32c(_canonical(body))
    if mirror is not None:
        mirror.put_segment(recipe_dir, commit.segment, commit.files, _canonical(body))
    fsio.publish(recipe_dir / "commits" / f"{commit.segment}.json", _canonical(body))


def commit_paths(recipe_dir: Path) -> list[Path]:
    """The commit records of a recipe, by name; temporary files are no commit records."""
    folder = recipe_dir / "commits"
    if (mirror := mirror_of(recipe_dir)) is not None:
        mirror.refresh_commits(recipe_dir)
    found = list_folder(folder)
    # The recipe first: a writer that is just starting publishes it after it has made the folder of commits.
    if not found and (recipe_dir / "recipe.json").exists() and not folder.exists():
        raise CacheCorrupt(
            f"{folder}: missing, though the recipe is there; put it back, or move {recipe_dir} away and embed again"
        )
    return [path for path in found if path.suffix == ".json" and HEX32.fullmatch(path.stem)]


def live_commits(commits: list[Commit]) -> list[Commit]:
    """The commits whose segments are to be read: those that no other one supersedes."""
    gone = {segment for commit in commits for segment in commit.supersedes}
    return [commit for commit in commits if commit.segment not in gone]


def superseded_by(sources: Iterable[Commit]) -> tuple[str, ...]:
    """What a segment that replaces `sources` must name: them, and all that they replaced.

    So no commit record that `gc` has yet to unlink ever comes alive again, in whatever order it unlinks them.
    """
    return tuple(sorted({name for source in sources for name in (source.segment, *source.supersedes)}))


def is_committed(recipe_dir: Path, segment: str) -> bool:
    """Whether a segment's commit record is still there; gc or repair may have withdrawn it since it was listed."""
    return (recipe_dir / "commits" / f"{segment}.json").exists()


def unlink_commits(recipe_dir: Path, segments: Iterable[str]) -> None:
    """Withdraw segments.  What replaces them, known from a listing only, is made durable first."""
    folder = recipe_dir / "commits"
    fsio.sync_dir(folder)
    for segment in segments:
        path = folder / f"{segment}.json"
        if path.is_dir() and not path.is_symlink():
            fsio.remove_tree(path)
        else:
            fsio.remove_file(path)
    fsio.sync_dir(folder)


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def read_commit(path: Path) -> Commit:
    """One commit record.

    Raises:
        CacheCorrupt: it fails its own checksum or names what no segment has.
        InputError: it is of another format version.
    """
    refuse_links(path.parent.parent, path.parent)
    body = parse_json(read_bytes(path, _MAX_JSON), path)
    if body.pop("crc32c", None) != fsio.crc32c(_canonical(body)):
        raise CacheCorrupt(f"{path}: the commit record does not match its own crc32c; {VERIFY}")
    try:
        if _integer(body["format"]) != FORMAT:
            raise InputError(f"{path}: cache format {body['format']}, this version reads {FORMAT}; upgrade it")
        files = {name: FileSum(*map(_integer, pair)) for name, pair in body["files"].items()}
        parts = {name: Part(*map(_integer, place)) for name, place in body.get("parts", {}).items()}
        commit = Commit(
            body["segment"],
            body["recipe"],
            _integer(body["recipe_crc32c"]),
            _integer(body["records"]),
            _integer(body["rows"]),
            files,
            tuple(body["supersedes"]),
            parts,
        )
        if commit.segment != path.stem:
            raise ValueError("it names another segment than its file name")
        named = [commit.segment, *commit.supersedes]
        if not all(map(HEX32.fullmatch, named)):
            raise ValueError("a segment's name is not one of the format's")
        if files.keys() != ({H5} if commit.store == "h5" else FILES):
            raise ValueError("its files are not those of a segment")
        if parts.keys() != (PARTS if commit.store == "h5" else set()):
            raise ValueError("its parts are not those of a segment")
        if type(body["supersedes"]) is not list:
            raise ValueError("supersedes is no list")
        if not 1 <= commit.records <= commit.rows:
            raise ValueError(f"{commit.rows} rows of {commit.records} records")
        if commit.segment in commit.supersedes:
            raise ValueError("it supersedes itself")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheCorrupt(f"{path}: {one_line(error)}; the commit record is damaged, {VERIFY}") from None
    return commit


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_INT:
        raise ValueError(f"{value!r} is no size")
    return value
