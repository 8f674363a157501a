"""`index`: the key index of each recipe made anew, so that readers need not open every segment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.index.index_file import index_paths
from crossllm.cache.index.index_writer import Indexed, Written, write_index
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.integrity import Seen
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.store.commit import Commit, live_commits
from crossllm.cache.store.recipe import Recipe, read_recipe, recipe_folders
from crossllm.cache.store.segment import Segment


class MadeIndex(NamedTuple):
    """The key index of one recipe."""

    recipe: str
    """Folder name."""
    segments: int
    keys: int
    distinct: int
    bytes: int


def index(cache_dir: Path, *, quiet: bool = True) -> list[MadeIndex]:
    """Make the key index of every recipe that has rows, and remove the older ones; segments are opened one by one.

    Raises:
        InputError: `cache_dir` is no cache, or of a later format; nothing was changed.
        CacheCorrupt: a commit record or small file is damaged; the recipes before it have their index.
    """
    require_cache(cache_dir)
    made = []
    for folder in (folder for modality in MODALITIES for folder in recipe_folders(cache_dir, modality)):
        recipe, listing = read_recipe(folder), read_commits(folder)
        listing.refuse_newer()
        if listing.damage:
            raise CacheCorrupt(f"{found}; run `crossllm cache repair` first" for found in listing.damage)
        live = live_commits(listing.commits)
        if not live:
            continue
        before = index_paths(folder)
        with byte_progress(sum(commit.records for commit in live) * 32, "index", quiet) as seen:
            done = write_index(folder, recipe.digest, _segments(folder, recipe, live, listing.commits, seen))
        for path in before:
            fsio.remove_file(path)
        made.append(_made(folder, done))
    return made


def _made(folder: Path, done: Written) -> MadeIndex:
    return MadeIndex(folder.name, done.segments, done.keys, done.distinct, done.bytes)


def _segments(folder: Path, recipe: Recipe, live: list[Commit], listed: list[Commit], seen: Seen) -> Iterator[Indexed]:
    """What the index takes of each live segment; none stays open."""
    replaced = tuple(sorted({name for commit in listed for name in commit.supersedes}))
    for commit in live:
        segment = Segment(folder, recipe, commit)
        lengths = np.diff(segment.offsets)
        yield Indexed(commit.segment, segment.digest, lengths, commit.bytes, segment.stored_as, replaced)
        seen(commit.records * 32)
        replaced = ()
