"""`merge`: what other caches hold and this one does not, copied into it; nothing is embedded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.progress import byte_progress
from crossllm.cache.console.runner import stop_between_records
from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, printable
from crossllm.cache.maintenance.compact import require_space
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.integrity import Seen, copy_into, laid_down_like
from crossllm.cache.records.id_table import publish_table, read_table
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.records.record import Record
from crossllm.cache.store.commit import is_committed, live_commits
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import Recipe, list_recipes
from crossllm.cache.store.segment import Segment
from crossllm.cache.store.writer import SEGMENT_BYTES, CacheWriter, sync_what_others_wrote

_NOT_MERGED = ("dataset.toml", "pairs.tsv")


class Merged(NamedTuple):
    """What `merge` did."""

    records: int
    """Records copied."""
    already: int
    """Records of the sources that were there, or that two sources hold."""
    ids: int
    """Ids added to the records tables."""
    bytes: int
    """Of the copied rows."""
    left_out: list[str]
    """`dataset.toml` and `pairs.tsv` of the sources: they are not merged."""
    damage: list[str]
    """Records that no source holds undamaged."""


class _Plan(NamedTuple):
    """What there is to copy of one recipe."""

    recipe: Recipe
    held: CacheReader
    """What `into` holds of it."""
    segments: list[Segment]
    """Of the sources, open."""
    bytes: int
    """Of the rows that `into` lacks."""


def merge(into: Path, sources: Sequence[Path], *, segment_bytes: int = SEGMENT_BYTES, quiet: bool = True) -> Merged:
    """Copy into a cache the records and ids that other caches hold and it does not; `into` need not exist.

    Every record is checked while it is copied.  Killed at any instant, what was committed stays, and the next run
    goes on from there.

    Raises:
        InputError: a source is no cache, is named twice, or is `into`.
        Conflict: an id stands for two sequences, every such id listed; nothing was written.
        CacheCorrupt: a commit record or small file of a source is damaged; nothing was written.
        OSError: the disk has not the space; nothing was written.
    """
    _check_sources(into, sources)
    ids = {modality: _new_ids(into, sources, modality) for modality in MODALITIES}
    if conflicts := [line for _, lines in ids.values() for line in lines]:
        raise Conflict(conflicts)
    plans = [_plan(into, sources, recipe) for recipe in _recipes(sources)]
    size = sum(plan.bytes for plan in plans)
    require_space(next(path for path in (into, *into.absolute().parents) if path.exists()), size)
    for modality, (records, _) in ids.items():
        publish_table(into, modality, records)
    copied = already = 0
    damage: list[str] = []
    with byte_progress(size, "merge", quiet) as seen:
        for plan in plans:
            written, there = _copy_recipe(into, plan, segment_bytes, damage, seen)
            copied, already = copied + written, already + there
    left_out = [str(path) for s in sources for name in _NOT_MERGED if (path := s / name).exists()]
    return Merged(copied, already, sum(len(records) for records, _ in ids.values()), size, left_out, damage)


def _check_sources(into: Path, sources: Sequence[Path]) -> None:
    """Every source is a cache, none stands twice, none is `into`."""
    for source in sources:
        require_cache(source)
    where = [into, *sources] if into.exists() else sources
    for n, path in enumerate(where):
        if any(path.samefile(other) for other in where[:n]):
            raise InputError(f"{path}: is named twice, as --cache or as a source; name each cache once")


def _new_ids(into: Path, sources: Sequence[Path], modality: str) -> tuple[list[Record], list[str]]:
    """The ids that `into` does not list yet, and a line for each that would stand for two sequences."""
    first = {id_: (into, entry) for id_, entry in read_table(into, modality).items()}
    new: list[Record] = []
    conflicts = []
    for source in sources:
        for id_, entry in read_table(source, modality).items():
            if id_ not in first:
                first[id_] = (source, entry)
                new.append(Record(entry.key, id_, "", entry.length))
            elif first[id_][1] != entry:
                other = first[id_][0]
                conflicts.append(
                    f"{source}: {modality} id '{printable(id_)}' stands for another sequence in {other}; nothing was "
                    "merged, rename the record in one of them"
                )
    return new, conflicts


def _recipes(sources: Sequence[Path]) -> list[Recipe]:
    """The recipes of all sources, each once."""
    held = {r.digest: r for source in sources for modality in MODALITIES for r in list_recipes(source, modality)}
    return list(held.values())


def _plan(into: Path, sources: Sequence[Path], recipe: Recipe) -> _Plan:
    """The segments of one recipe in all sources, and how much of them `into` lacks; all of them open."""
    plan = _Plan(recipe, CacheReader(into, recipe), [], 0)
    wanted: set[bytes] = set()
    size = 0
    for folder in (recipe.folder(source) for source in sources):
        for segment in _sources(folder, recipe):
            plan.segments.append(segment)
            for key, length in zip(map(bytes, segment.digest), np.diff(segment.offsets).tolist(), strict=True):
                if key not in wanted and key not in plan.held:
                    wanted.add(key)
                    size += length
    return plan._replace(bytes=size * recipe.dim * np.dtype(recipe.dtype).itemsize)


def _sources(folder: Path, recipe: Recipe) -> list[Segment]:
    """The live segments of a source, all of them open; listed again where gc removed one meanwhile."""
    while True:
        listing = read_commits(folder)
        listing.refuse_newer()
        if listing.damage:
            raise CacheCorrupt(f"{found}; run `crossllm cache repair` on it first" for found in listing.damage)
        try:
            return [Segment(folder, recipe, commit, io="pread") for commit in live_commits(listing.commits)]
        except CacheCorrupt:
            if all(is_committed(folder, commit.segment) for commit in listing.commits):
                raise


def _copy_recipe(into: Path, plan: _Plan, segment_bytes: int, damage: list[str], seen: Seen) -> tuple[int, int]:
    """Copy what `into` lacks of one recipe: records copied, and records that were there already."""
    stored: set[bytes] = set()
    failed: dict[bytes, str] = {}
    already = 0
    store, compressor = laid_down_like([segment.stored_as for segment in plan.segments])
    with (
        stop_between_records() as stopping,
        CacheWriter(into, plan.recipe, segment_bytes=segment_bytes, store=store, compressor=compressor) as writer,
    ):
        while plan.segments:
            segment = plan.segments.pop(0)  # closed when it is done with
            for index, key in enumerate(map(bytes, segment.digest)):
                if stopping():
                    return len(stored), already
                if key in stored or key in plan.held:
                    already += 1
                    continue
                try:
                    seen(copy_into(writer, segment, index, plan.recipe))
                    stored.add(key)
                except CacheCorrupt as error:
                    failed[key] = str(error)
    sync_what_others_wrote(into, plan.recipe)
    damage += [line for key, line in failed.items() if key not in stored]
    return len(stored), already
