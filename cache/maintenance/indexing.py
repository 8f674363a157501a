"""`index`: the key index of each recipe made anew, so that readers need not open every segment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt, CrossLLMError, one_line
from crossllm.cache.index.index_file import index_paths, open_index
from crossllm.cache.index.index_writer import Indexed, write_index
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.integrity import Seen
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.remote.by_path import discard, mirror_of
from crossllm.cache.store.commit import Commit, commit_paths, live_commits
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


_AT_ONCE = 64
"""Segments whose small files are fetched together, of a cache in an object store."""


def index(cache_dir: Path, *, quiet: bool = True) -> list[MadeIndex]:
    """Make the key index of every recipe that has rows, and remove the older ones; segments are opened one by one.

    Raises:
        InputError: `cache_dir` is no cache, or of a later format; nothing was changed.
        CacheCorrupt: a commit record or small file is damaged; the recipes before it have their index.
    """
    require_cache(cache_dir)
    folders = (folder for modality in MODALITIES for folder in recipe_folders(cache_dir, modality))
    return [made for folder in folders if (made := _index(folder, quiet)) is not None]


def _index(folder: Path, quiet: bool) -> MadeIndex | None:
    """The same for one recipe; None where it has no rows."""
    recipe, listing = read_recipe(folder), read_commits(folder)
    listing.refuse_newer()
    if listing.damage:
        raise CacheCorrupt(f"{found}; run `crossllm cache repair` first" for found in listing.damage)
    live = live_commits(listing.commits)
    if not live:
        return None
    before = index_paths(folder)
    with byte_progress(sum(commit.records for commit in live) * 32, "index", quiet) as seen:
        done = write_index(folder, recipe.digest, _segments(folder, recipe, live, listing.commits, seen))
    for path in before:
        discard(path)
    return MadeIndex(folder.name, done.segments, done.keys, done.distinct, done.bytes)


def renew_index(folder: Path, *, quiet: bool = True) -> None:
    """Make a recipe's key index again after segments were replaced, where it has one: readers do without it since.

    Where it cannot be made the older one stays, and a line says so: no reader takes it.
    """
    if not index_paths(folder):
        return
    try:
        made = _index(folder, quiet)
    except (CrossLLMError, OSError) as error:
        note(f"note: {folder.name}: its key index is out of date, so every segment is opened ({one_line(error)}); "
             "make it again by `crossllm cache index`")  # fmt: skip
        return
    if made is not None:
        note(f"note: {folder.name}: its key index was made again")


def note_later_segments(folder: Path) -> None:
    """Say it where a recipe has a key index and segments that came after it, which are opened one by one."""
    recipe, listed = read_recipe(folder), {path.stem for path in commit_paths(folder)}
    file = open_index(folder, recipe.digest, listed)
    if file is not None and (later := len(listed.difference(file.segments.names, file.segments.replaced))):
        note(f"note: {folder.name}: its key index lacks {later} of {len(listed)} segments, opened one by one; "
             "where they are thousands, make it again by `crossllm cache index`")  # fmt: skip


def _segments(folder: Path, recipe: Recipe, live: list[Commit], listed: list[Commit], seen: Seen) -> Iterator[Indexed]:
    """What the index takes of each live segment; none stays open."""
    replaced = tuple(sorted({name for commit in listed for name in commit.supersedes}))
    mirror = mirror_of(folder)
    for number, commit in enumerate(live):
        if mirror is not None and number % _AT_ONCE == 0:
            mirror.bring_all(folder, [(one.segment, one.files) for one in live[number : number + _AT_ONCE]])
        segment = Segment(folder, recipe, commit)
        lengths = np.diff(segment.offsets)
        yield Indexed(commit.segment, segment.digest, lengths, commit.bytes, segment.stored_as, replaced)
        seen(commit.records * 32)
        replaced = ()
