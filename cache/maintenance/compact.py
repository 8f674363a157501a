"""`compact`: many small segments become few, and a key that several hold is kept once.

An output is closed only between two sources, so that it replaces whole ones.  A record is left out only because an
output of this very run holds it, committed before or by the same commit: another compaction may be replacing any
other segment at this moment.
"""

from __future__ import annotations

import errno
import shutil
import sys
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.indexing import renew_index
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.integrity import Seen, bad_records, copy_into, laid_down_like
from crossllm.cache.records.keys import prefixes
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store.commit import Commit, is_committed, live_commits, superseded_by
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe, read_recipe, recipe_folders
from crossllm.cache.store.segment import Segment
from crossllm.cache.store.writer import SEGMENT_BYTES, CacheWriter


class Compacted(NamedTuple):
    """What `compact` did, or with `dry_run` would do."""

    sources: int
    """Segments that were replaced."""
    outputs: int
    records: int
    """Records in the outputs."""
    duplicates: int
    """Records left out, because an output holds their key already."""
    bytes: int
    """Of the replaced segments: what `gc` frees."""
    damage: list[str]
    """Segments that were left alone, because they are damaged; `repair` comes first."""


class _Plan(NamedTuple):
    """What is to be rewritten of one recipe."""

    folder: Path
    recipe: Recipe
    sources: list[Commit]
    repeated: NDArray[np.uint64]
    """The first eight bytes, as a number, of every key that stands more than once; sorted."""
    store: Store
    compressor: Compressor | None


def compact(
    cache_dir: Path, *, segment_bytes: int = SEGMENT_BYTES, dry_run: bool = False, quiet: bool = True
) -> Compacted:
    """Rewrite what is small or repeated into segments of at least `segment_bytes` of rows, the last one smaller.

    Killed at any instant, every record is still there, and the next run goes on.

    Raises:
        InputError: `cache_dir` is no cache, or of a later format; nothing was changed.
        OSError: the disk has not the space; nothing was changed.
    """
    require_cache(cache_dir)
    folders = [folder for modality in MODALITIES for folder in recipe_folders(cache_dir, modality)]
    damage: list[str] = []
    plans = [_plan(folder, segment_bytes, damage) for folder in folders]
    size = sum(commit.bytes for plan in plans for commit in plan.sources)
    require_space(cache_dir, size)
    if dry_run:
        return Compacted(sum(len(plan.sources) for plan in plans), 0, 0, 0, size, damage)
    with byte_progress(size, "compact", quiet) as seen:
        done = [_rewrite(cache_dir, plan, segment_bytes, damage, seen) for plan in plans if plan.sources]
    for plan in plans:
        if plan.sources:
            renew_index(plan.folder, quiet=quiet)
    sums = [sum(counts) for counts in zip((0,) * 5, *done, strict=True)]
    return Compacted(sums[0], sums[1], sums[2], sums[3], sums[4], damage)


def require_space(cache_dir: Path, needed: int) -> None:
    """Raise an `OSError` (no space, exit 4) where the disk has not `needed` bytes free."""
    free = shutil.disk_usage(cache_dir).free
    if (mirror := mirror_of(cache_dir)) is not None:
        needed = min(needed, mirror.bound)  # what was uploaded makes room
    if needed > free:
        raise OSError(
            errno.ENOSPC, f"{needed} bytes are needed and {free} are free, nothing was written", str(cache_dir)
        )


def _plan(folder: Path, segment_bytes: int, damage: list[str]) -> _Plan:
    """What to rewrite: small segments if there are several, and all that share a key; lines for what is damaged."""
    recipe = read_recipe(folder)
    listing = read_commits(folder)
    listing.refuse_newer()
    damage += map(str, listing.damage)
    commits: list[Commit] = []
    keys, layouts = [], []
    for commit in live_commits(listing.commits):
        try:
            segment = Segment(folder, recipe, commit)
            keys.append(prefixes(segment.digest))
            layouts.append(segment.stored_as)
            commits.append(commit)
        except CacheCorrupt as error:
            damage += error.lines if is_committed(folder, commit.segment) else ()
    found, counts = np.unique(np.concatenate(keys or [np.empty(0, np.uint64)]), return_counts=True)
    repeated = found[counts > 1]
    row_bytes = recipe.dim * np.dtype(recipe.dtype).itemsize
    small = [commit.rows * row_bytes < segment_bytes for commit in commits]
    doubled = [bool(np.isin(prefix, repeated).any()) for prefix in keys]
    wanted = any(doubled) or sum(small) > 1
    sources = [c for c, is_small, is_doubled in zip(commits, small, doubled, strict=True) if is_small or is_doubled]
    return _Plan(folder, recipe, sources if wanted else [], repeated, *laid_down_like(layouts))


def _rewrite(
    cache_dir: Path, plan: _Plan, segment_bytes: int, damage: list[str], seen: Seen
) -> tuple[int, int, int, int, int]:
    """Compact one recipe: sources, outputs, records, duplicates and bytes, as `Compacted` has them."""
    written: set[bytes] = set()  # of the repeated keys
    replaced: list[Commit] = []
    sources = outputs = duplicates = size = freed = 0
    with CacheWriter(
        cache_dir,
        plan.recipe,
        segment_bytes=sys.maxsize,
        segment_seconds=inf,
        store=plan.store,
        compressor=plan.compressor,
    ) as writer:
        for commit in plan.sources:
            segment = _sound(plan, commit, damage)
            if segment is None:
                continue
            new = _new_records(segment, plan.repeated, written)
            # Not sooner: a source with nothing new needs an output that names it as replaced.
            if new and size >= segment_bytes:
                writer.commit(superseded_by(replaced))
                replaced, size, outputs = [], 0, outputs + 1
            for index in new:
                size += copy_into(writer, segment, index, plan.recipe)
            replaced.append(commit)
            duplicates += commit.records - len(new)
            sources, freed = sources + 1, freed + commit.bytes
            seen(commit.bytes)
        writer.commit(superseded_by(replaced))
        return sources, outputs + bool(replaced), writer.committed, duplicates, freed


def _sound(plan: _Plan, commit: Commit, damage: list[str]) -> Segment | None:
    """A source, every record checked; None where it is damaged, which is said, or replaced by somebody meanwhile."""
    try:
        segment = Segment(plan.folder, plan.recipe, commit, io="pread")
        bad = bad_records(segment, plan.recipe)
    except CacheCorrupt as error:
        damage += error.lines if is_committed(plan.folder, commit.segment) else ()
        return None
    if bad:
        damage.append(
            f"{segment.path}: {len(bad)} records do not match their crc32c; left alone, run `crossllm cache repair`"
        )
    return None if bad else segment


def _new_records(segment: Segment, repeated: NDArray[np.uint64], written: set[bytes]) -> list[int]:
    """The records of a source whose keys no output holds yet; `written` takes up those that stand more than once."""
    new = []
    for index, is_repeated in enumerate(np.isin(prefixes(segment.digest), repeated).tolist()):
        if is_repeated:
            key = segment.digest[index].tobytes()
            if key in written:
                continue
            written.add(key)
        new.append(index)
    return new
