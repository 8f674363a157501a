"""Whether the bytes of one segment are what they were when it was committed.

Everything is read by `pread` into one buffer: a file that is cut meanwhile, or a sector that cannot be read, is damage
here and not a signal.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, RowsRefused, one_line
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import PlainFile
from crossllm.cache.maintenance.damage import Damage, Names, named, recipe_name
from crossllm.cache.records.keys import prefixes
from crossllm.cache.store.commit import H5, Commit, is_committed
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.segment import ROWS, Segment
from crossllm.cache.store.writer import CacheWriter

BLOCK = 4 << 20
"""Bytes read at once."""
Seen = Callable[[int], object]
"""Called with the bytes read since the last call."""


class Subset(NamedTuple):
    """The `part`-th of `parts` parts of all records, by key: every record is in one of them, whatever its segment."""

    part: int
    """From 1."""
    parts: int


def check_segment(
    recipe_dir: Path, recipe: Recipe, commit: Commit, *, data: bool, subset: Subset | None, names: Names, seen: Seen
) -> list[Damage]:
    """What is damaged in a committed segment: its small files and shard index; with `data`, every byte.

    A damaged record is listed by itself; damage elsewhere in the file of rows only where no record is hit.
    """
    name = recipe_name(recipe_dir)
    path = recipe_dir / "segments" / commit.segment
    try:
        segment = Segment(recipe_dir, recipe, commit, io="pread")
        _ = segment.source  # proves the shard's index
        if data and subset is None:
            segment.fetch_whole()  # from an object store
        bad = bad_records(segment, recipe, subset, seen) if data else []
        whole = bad or not data or subset is not None or _file_matches(segment, seen)
    except (CacheCorrupt, InputError, OSError) as error:
        if not (recipe_dir / "commits" / f"{commit.segment}.json").exists():
            return []  # withdrawn meanwhile by gc or repair
        if isinstance(error, OSError) and error.errno not in (errno.EIO, errno.ENOENT):
            raise
        what = f"{one_line(error, 400)}; {commit.records} records cannot be read"
        return [Damage("segment", path, what, name, commit.segment, unreadable=commit.records)]
    found = []
    for index in bad:
        key = segment.digest[index].tobytes()
        ids = names(recipe.modality, key)
        what = f"{path}: {named(key, ids)} does not match its crc32c; `crossllm cache repair` drops it"
        found.append(Damage("record", path, what, name, commit.segment, key.hex(), ids, 1))
    if not whole:
        what = f"{path}: damaged outside its records, which are whole; `crossllm cache repair` writes it again"
        found.append(Damage("segment", path, what, name, commit.segment))
    return found


def bad_records(
    segment: Segment, recipe: Recipe, subset: Subset | None = None, seen: Seen = lambda _: None
) -> list[int]:
    """The records of a segment, by index, whose rows cannot be read or do not match their crc32c."""
    bad: list[int] = []
    row_bytes = recipe.dim * np.dtype(recipe.dtype).itemsize
    firsts, stops = _groups(segment, row_bytes, subset)
    counts = segment.offsets[stops] - segment.offsets[firsts]
    buffer = np.empty((int(counts.max(initial=0)), recipe.dim), np.dtype(recipe.dtype).newbyteorder("<"))
    for first, stop, count in zip(firsts.tolist(), stops.tolist(), counts.tolist(), strict=True):
        bad += _bad_in(segment, first, stop, buffer[:count])
        seen(count * row_bytes)
    return bad


def _groups(segment: Segment, row_bytes: int, subset: Subset | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where runs of wanted neighbouring records begin and end: of some `BLOCK` bytes, or one record that is larger."""
    wanted = np.arange(len(segment.digest))
    if subset is not None:
        wanted = np.flatnonzero(prefixes(segment.digest) % np.uint64(subset.parts) == subset.part - 1)
    block = segment.offsets[wanted] * row_bytes // BLOCK
    is_first = np.ones(len(wanted) + 1, bool)
    is_first[1:-1] = (np.diff(wanted) != 1) | (np.diff(block) != 0)
    edges = np.flatnonzero(is_first)
    return wanted[edges[:-1]], wanted[edges[1:] - 1] + 1


def _bad_in(segment: Segment, first: int, stop: int, rows: NDArray[Any]) -> list[int]:
    """The bad ones of the records `first` to `stop`, read into `rows` in one piece."""
    cuts = (segment.offsets[first : stop + 1] - segment.offsets[first]).tolist()
    try:
        segment.source.read_into(int(segment.offsets[first]), rows)
    except (CacheCorrupt, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EIO:
            raise
        if stop - first == 1:
            return [first]
        pieces = [rows[a:b] for a, b in pairwise(cuts)]
        return [bad for n, piece in enumerate(pieces, first) for bad in _bad_in(segment, n, n + 1, piece)]
    data = rows.view(np.uint8)
    crcs = [fsio.crc32c(data[a:b]) for a, b in pairwise(cuts)]
    return (first + np.flatnonzero(np.asarray(crcs, np.uint32) != segment.crc32c[first:stop])).tolist()


def _file_matches(segment: Segment, seen: Seen) -> bool:
    """Whether the file that holds the rows, all of it, matches its commit record."""
    name = H5 if segment.commit.store == "h5" else ROWS
    size, expected = segment.commit.files[name]
    file = PlainFile(segment.path / name, size)
    buffer, crc = np.empty(min(BLOCK, size), np.uint8), 0
    for at in range(0, size, BLOCK):
        piece = buffer[: min(BLOCK, size - at)]
        file.read_into(piece, at)
        crc = fsio.crc32c(piece, crc)
        seen(len(piece))
    return crc == expected


def laid_down_like(found: Sequence[tuple[Store, Compressor | None]]) -> tuple[Store, Compressor | None]:
    """How what replaces such segments is laid down: compressed where one of them is, as HDF5 where all of them are."""
    if any(compressor for _, compressor in found):
        return "zarr", "zstd"
    return ("h5" if found and all(store == "h5" for store, _ in found) else "zarr"), None


def copy_into(writer: CacheWriter, segment: Segment, index: int, recipe: Recipe) -> int:
    """Write a record once more; its bytes.

    Raises:
        CacheCorrupt: it does not match its crc32c, or holds what must never be stored.
        Conflict: the segment was replaced and removed meanwhile.
    """
    key = segment.digest[index].tobytes()
    try:
        rows = copy_record(segment, index, recipe)
        writer.add(key, rows)
    except CacheCorrupt:
        folder = segment.path.parent.parent
        if is_committed(folder, segment.name):
            raise
        raise Conflict(
            f"{folder}: was compacted and collected by another process; run the same command again"
        ) from None
    except RowsRefused as error:
        raise CacheCorrupt(
            f"{segment.path}: record {key.hex()}: {error}; whatever wrote it is wrong, embed it again"
        ) from None
    return rows.nbytes


def copy_record(segment: Segment, index: int, recipe: Recipe) -> NDArray[np.floating]:
    """The rows of a record, shape (L, D), checked after they were copied: what was checked is what is written.

    Raises:
        CacheCorrupt: they do not match their crc32c.
    """
    count = int(segment.offsets[index + 1] - segment.offsets[index])
    rows = np.empty((count, recipe.dim), np.dtype(recipe.dtype).newbyteorder("<"))
    segment.read_into(index, rows)
    return rows
