"""`repair`: only what is damaged is dropped, so that the next `embed run` makes it again.

What is left of a damaged segment goes, each record proved, into a new segment that supersedes it; a commit record
that nothing is left of, or that cannot be read itself, is unlinked afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt, InputError, RowsRefused
from crossllm.cache.maintenance.damage import Damage, Listing, Names, names_in, read_commits, recipe_name
from crossllm.cache.maintenance.indexing import renew_index
from crossllm.cache.maintenance.inspection import require_cache, verify
from crossllm.cache.maintenance.integrity import check_segment, copy_record
from crossllm.cache.maintenance.salvage import Salvage
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.store import writer_marker
from crossllm.cache.store.commit import Commit, live_commits, read_commit, superseded_by, unlink_commits
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe, read_recipe, recipe_folders
from crossllm.cache.store.recipe_command import command_for
from crossllm.cache.store.segment import Segment
from crossllm.cache.store.writer import CacheWriter


class Dropped(NamedTuple):
    """A record that a damaged segment held and that could not be proved good."""

    recipe: str
    """`<modality>/<folder name>`."""
    segment: str
    key: str
    """64 hex digits."""
    ids: tuple[str, ...]


class Repaired(NamedTuple):
    """What `repair` did, or with `dry_run` would do."""

    segments: list[str]
    """Damaged segments that were replaced or withdrawn."""
    kept: int
    """Records of theirs that were proved good and copied."""
    dropped: list[Dropped]
    """Records that are gone; those that another segment holds as well are not listed."""
    keyless: int
    """At most so many more are gone, whose keys are lost as well."""
    unknown: list[str]
    """Segments that are gone with records of which nothing is known, not even how many."""
    left: list[Damage]
    """What nothing in the cache can make good; each says what to do."""
    again: list[str]
    """The commands that make the dropped records again."""


class _Work(NamedTuple):
    """What a repair knows and has done, of all recipes."""

    names: Names
    segments: list[str]
    kept: list[int]
    dropped: list[Dropped]
    keyless: list[int]
    unknown: list[str]


def repair(cache_dir: Path, *, dry_run: bool = False, quiet: bool = True) -> Repaired:
    """Drop the damaged records of a cache, and only those; every byte is read.

    Killed at any instant, what was good is still there, and the next run goes on.

    Raises:
        InputError: `cache_dir` is no cache, or of a later format; nothing was changed.
    """
    require_cache(cache_dir)
    work = _Work(names_in(cache_dir), [], [], [], [], [])
    again = []
    for modality in MODALITIES:
        for folder in recipe_folders(cache_dir, modality):
            read_commits(folder).refuse_newer()
            try:
                recipe = read_recipe(folder)
            except CacheCorrupt:
                continue  # verify, below, says what to do
            before, replaced = _lost(work), len(work.segments)
            _repair_recipe(cache_dir, recipe, work, dry_run=dry_run, quiet=quiet)
            if len(work.segments) > replaced and not dry_run:
                renew_index(folder, quiet=quiet)
            if _lost(work) > before:
                again.append(command_for(cache_dir, recipe))
    hopeless = verify(cache_dir, data=False).damage
    left = [found for found in hopeless if not dry_run or found.kind in ("recipe", "records", "dataset")]
    return Repaired(work.segments, sum(work.kept), work.dropped, sum(work.keyless), work.unknown, left, again)


def _lost(work: _Work) -> int:
    return len(work.dropped) + sum(work.keyless) + len(work.unknown)


def _repair_recipe(cache_dir: Path, recipe: Recipe, work: _Work, *, dry_run: bool, quiet: bool) -> None:
    """Go over the live segments until all are whole: a withdrawn one may bring those back that it replaced."""
    folder = recipe.folder(cache_dir)
    whole: set[str] = set()
    lost: list[Dropped] = []
    keyless = 0
    while True:
        listing = read_commits(folder)
        todo = _damaged_commits(folder, listing)
        live = [commit for commit in live_commits(listing.commits) if commit.segment not in whole]
        with byte_progress(2 * sum(c.bytes for c in live), recipe.folder_name, quiet) as seen:
            for commit in live:
                found = check_segment(folder, recipe, commit, data=True, subset=None, names=work.names, seen=seen)
                todo += [(commit.segment, commit)] if found else []
                whole.update(() if found else (commit.segment,))
        lengths = _lengths(cache_dir, recipe) if todo else {}
        replaced = {name for commit in listing.commits for name in commit.supersedes}
        for segment, old in todo:
            done = _Kept(0, 0, []) if segment in replaced else _keep(cache_dir, recipe, segment, old, lengths, dry_run)
            work.segments.append(segment)
            work.unknown.extend([segment] if old is None and not done.held and segment not in replaced else [])
            work.kept.append(done.kept)
            keyless += done.held - done.kept - len(done.gone)
            where = recipe_name(folder)
            lost += [Dropped(where, segment, key.hex(), work.names(recipe.modality, key)) for key in done.gone]
            if not dry_run and (old is None or not done.kept):
                unlink_commits(folder, [segment])
        if dry_run or not todo:
            break
    work.dropped.extend(lost if dry_run else _not_elsewhere(folder, recipe, lost))
    work.keyless.append(max(0, keyless))


def _damaged_commits(folder: Path, listing: Listing) -> list[tuple[str, Commit | None]]:
    """Segments whose commit record cannot be read, but for those that a live writer may be publishing just now."""
    found = [damage.segment for damage in listing.damage]
    return [
        (name, None)
        for name in found
        if not writer_marker.marker_path(folder, name).exists() or not writer_marker.may_be_written(folder, name)
    ]


class _Kept(NamedTuple):
    """What became of one damaged segment."""

    held: int
    """Records it held, as far as that is known; more may be found where another segment lies in its place."""
    kept: int
    gone: list[bytes]
    """Keys of the others, where they are known."""


def _keep(
    cache_dir: Path, recipe: Recipe, segment: str, old: Commit | None, lengths: Mapping[bytes, int], dry_run: bool
) -> _Kept:
    """Publish what is good of a damaged segment in its place."""
    gone: list[bytes] = []
    held = kept = 0
    folder = recipe.folder(cache_dir)
    replaced = _Replaced(folder, recipe, () if old is None else old.supersedes)
    store, compressor = _stored_as(folder, recipe, old)
    new = (
        nullcontext()
        if dry_run
        else CacheWriter(
            cache_dir, recipe, segment_bytes=sys.maxsize, segment_seconds=inf, store=store, compressor=compressor
        )
    )
    with new as writer:
        for key, rows in Salvage(folder, recipe, segment, old, lengths):
            held += 1
            if key is not None and rows is None:
                rows = replaced.find(key)
            try:
                if key is None or rows is None:
                    raise RowsRefused("not proved")
                if writer is not None:
                    writer.add(key, rows)
                kept += 1
            except RowsRefused:
                gone += [key] if key else []
        if writer is not None:
            writer.commit((segment,) if old is None else superseded_by([old]))
    return _Kept(held if old is None else old.records, kept, gone)


def _stored_as(folder: Path, recipe: Recipe, old: Commit | None) -> tuple[Store, Compressor | None]:
    """As the damaged segment is, where that can be told."""
    with suppress(CacheCorrupt):
        if old is not None:
            return Segment(folder, recipe, old).stored_as
    return "zarr", None


class _Replaced:
    """The segments that a damaged one replaced and that gc has not removed yet: they may hold its records whole."""

    def __init__(self, folder: Path, recipe: Recipe, names: Sequence[str]) -> None:
        self._folder, self._recipe, self._names = folder, recipe, names

    @cached_property
    def _segments(self) -> list[tuple[Segment, dict[bytes, int]]]:
        found = []
        for path in (self._folder / "commits" / f"{name}.json" for name in self._names):
            with suppress(CacheCorrupt, InputError, OSError):
                segment = Segment(self._folder, self._recipe, read_commit(path), io="pread")
                found.append((segment, {key: n for n, key in enumerate(map(bytes, segment.digest))}))
        return found

    def find(self, key: bytes) -> NDArray[np.floating] | None:
        """The rows of a key, checked; None where none of them has it whole."""
        for segment, places in self._segments:
            if key in places:
                with suppress(CacheCorrupt, OSError):
                    return copy_record(segment, places[key], self._recipe)
        return None


def _not_elsewhere(folder: Path, recipe: Recipe, lost: list[Dropped]) -> list[Dropped]:
    """Those of `lost` that no live segment holds."""
    gone = {found.key: found for found in lost}
    for commit in live_commits(read_commits(folder).commits) if gone else ():
        with suppress(CacheCorrupt):  # damaged or withdrawn since it was checked
            for digest in Segment(folder, recipe, commit).digest:
                gone.pop(digest.tobytes().hex(), None)
    return list(gone.values())


def _lengths(cache_dir: Path, recipe: Recipe) -> dict[bytes, int]:
    """Key → rows, as the records table and the recipe say; nothing where the table is damaged itself."""
    try:
        return {e.key: recipe.rows_of(e.length) for e in read_table(cache_dir, recipe.modality).values()}
    except CacheCorrupt:
        return {}
