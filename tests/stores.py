"""The stores that one contract suite runs on, and tools that damage or forge a segment of any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache import CacheWriter, Recipe
from crossllm.cache.files.fsio import crc32c
from crossllm.cache.store.commit import H5, Commit, FileSum, Part, commit_paths, publish_commit, read_commit
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.row_source import IO
from crossllm.cache.store.segment import CHUNK, ROWS, Segment


class Kind(NamedTuple):
    """A way to lay a segment down and to read it."""

    store: Store
    compressor: Compressor | None
    io: IO

    @property
    def name(self) -> str:
        return "+".join(filter(None, (self.store, self.compressor, self.io)))

    @property
    def rows_file(self) -> str:
        return H5 if self.store == "h5" else ROWS


STORES: tuple[tuple[Store, Compressor | None], ...] = (("zarr", None), ("zarr", "zstd"), ("h5", None))
KINDS = [Kind(store, compressor, io) for store, compressor in STORES for io in ("mmap", "pread")]


def write(
    cache_dir: Path, recipe: Recipe, rows: Mapping[bytes, np.ndarray], kind: Kind, segment_bytes: int = 256 << 20
) -> None:
    """Store records as one kind of segment."""
    with CacheWriter(
        cache_dir, recipe, segment_bytes=segment_bytes, store=kind.store, compressor=kind.compressor
    ) as writer:
        for key, found in rows.items():
            writer.add(key, found)


def open_segments(cache_dir: Path, recipe: Recipe, io: IO = "mmap") -> list[Segment]:
    """Every committed segment, opened."""
    folder = recipe.folder(cache_dir)
    return [Segment(folder, recipe, read_commit(path), io) for path in commit_paths(folder)]


def place(segment: Path, commit: Commit, array: str, kind: Kind) -> tuple[Path, int, int]:
    """Where an array lies: the file, its first byte there, its bytes."""
    if kind.store == "h5":
        part = commit.parts[array]
        return segment / H5, part.at, part.bytes
    path = segment / CHUNK[array]
    index = 16 + 4 if array == "rows" else 0
    return path, 0, path.stat().st_size - index


def flip(path: Path, at: int) -> None:
    """Turn one bit of a byte over."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def resign(segment: Path, **changes: Any) -> None:
    """Write a segment's commit record again, for its files as they are now and with some fields as asked."""
    recipe_dir = segment.parent.parent
    path = recipe_dir / "commits" / f"{segment.name}.json"
    commit = read_commit(path)
    sums = {n: FileSum(len(d), crc32c(d)) for n in commit.files for d in [(segment / n).read_bytes()]}
    parts = {n: p._replace(crc32c=_crc_of(segment / H5, p)) for n, p in commit.parts.items()}
    path.unlink()
    publish_commit(recipe_dir, commit._replace(files=sums, parts=parts)._replace(**changes))


def _crc_of(path: Path, part: Part) -> int:
    return crc32c(path.read_bytes()[part.at : part.at + part.bytes])


def edit_record(recipe_dir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of the first commit record and give it the crc32c that fits."""
    (path, *_) = commit_paths(recipe_dir)
    body = json.loads(path.read_bytes())
    del body["crc32c"]
    change(body)
    body["crc32c"] = crc32c(canonical(body))
    path.write_bytes(canonical(body))


def canonical(body: dict[str, Any]) -> bytes:
    """JSON as the format signs it."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
