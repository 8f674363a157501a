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
from crossllm.cache.maintenance.indexing import note_later_segments
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.integrity import Seen, copy_into, copy_record, laid_down_like
from crossllm.cache.records.id_table import publish_table, read_table
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.records.record import Record
from crossllm.cache.store.commit import is_committed, live_commits
from crossllm.cache.store.linking import link_segment
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import Recipe, list_recipes
from crossllm.cache.store.segment import Segment
from crossllm.cache.store.store_folder import store_folder
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
    linked: int = 0
    """Segments taken whole, by hard links: they use no space of their own."""


class _Plan(NamedTuple):
    """What there is to copy of one recipe."""

    recipe: Recipe
    held: CacheReader
    """What `into` holds of it."""
    segments: list[Segment]
    """Of the sources, open."""
    needed: set[bytes] | None
    """Keys that are to be taken; None: all."""
    bytes: int
    """Of the rows that `into` lacks."""
    space: int
    """Of them, what linking cannot spare."""


def merge(
    into: Path,
    sources: Sequence[Path],
    *,
    segment_bytes: int = SEGMENT_BYTES,
    quiet: bool = True,
    rows_only: bool = False,
    only_needed: bool = False,
    link: bool = False,
) -> Merged:
    """Copy into a cache the records and ids that other caches hold and it does not; `into` need not exist.

    Every record is checked while it is copied.  Killed at any instant, what was committed stays, and the next run
    goes on from there.  Rows are keyed by sequence, so where a key is in two caches one record is kept, and the other
    is not looked at.

    Args:
        into: the cache to write.
        sources: those to take from.
        segment_bytes: rows after which a segment is committed.
        quiet: no bar.
        rows_only: the ids stay where they are: those of two datasets may clash.
        only_needed: the rows of the sequences that `into` lists alone; no ids.
        link: a segment that is wanted whole becomes a hard link where the file system can: no space of its own, and no
            second copy either, so that what damages the one damages the other.

    Raises:
        InputError: a source is no cache, is named twice, or is `into`.
        Conflict: an id stands for two sequences, every such id listed; nothing was written.
        CacheCorrupt: a commit record or small file of a source is damaged; nothing was written.
        OSError: the disk has not the space; nothing was written.
    """
    _check_sources(into, sources)
    ids: dict[str, tuple[list[Record], list[str]]] = {}
    if not (rows_only or only_needed):
        ids = {modality: _new_ids(into, sources, modality) for modality in MODALITIES}
    if conflicts := [line for _, lines in ids.values() for line in lines]:
        raise Conflict(conflicts)
    needed = _listed(into) if only_needed else None
    plans = [_plan(into, sources, recipe, needed) for recipe in _recipes(sources)]
    size = sum(plan.bytes for plan in plans)
    home = store_folder(into)
    require_space(
        next(path for path in (home, *home.absolute().parents) if path.exists()),
        sum(plan.space for plan in plans) if link else size,
    )
    for modality, (records, _) in ids.items():
        publish_table(into, modality, records)
    copied = already = linked = 0
    damage: list[str] = []
    with byte_progress(size, "merge", quiet) as seen:
        for plan in plans:
            written, there, whole = _copy_recipe(into, plan, segment_bytes, link, damage, seen)
            copied, already, linked = copied + written, already + there, linked + whole
            if written:
                note_later_segments(plan.recipe.folder(into))
    left_out = [str(path) for s in sources for name in _NOT_MERGED if (path := s / name).exists()]
    return Merged(copied, already, sum(len(records) for records, _ in ids.values()), size, left_out, damage, linked)


def take(into: Path, source: Path, recipe: Recipe, keys: set[bytes], *, quiet: bool = True) -> Merged:
    """Copy the rows of these keys that another cache holds and this one does not, and no ids; linked where that can be.

    Raises:
        CacheCorrupt: a commit record or small file of the source is damaged; nothing was written.
        OSError: the disk has not the space; nothing was written.
    """
    plan = _plan(into, [source], recipe, keys)
    home = store_folder(into)
    require_space(next(path for path in (home, *home.absolute().parents) if path.exists()), plan.space)
    damage: list[str] = []
    with byte_progress(plan.bytes, "copy", quiet) as seen:
        copied, already, linked = _copy_recipe(into, plan, SEGMENT_BYTES, True, damage, seen)
    return Merged(copied, already, 0, plan.bytes, [], damage, linked)


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
                    "merged, rename the record in one of them, or merge the rows alone with --rows-only"
                )
    return new, conflicts


def _recipes(sources: Sequence[Path]) -> list[Recipe]:
    """The recipes of all sources, each once."""
    held = {r.digest: r for source in sources for modality in MODALITIES for r in list_recipes(source, modality)}
    return list(held.values())


def _listed(into: Path) -> set[bytes]:
    """The keys of the sequences that a cache lists, of all modalities.

    Raises:
        InputError: it lists none.
    """
    found = {entry.key for modality in MODALITIES for entry in read_table(into, modality).values()}
    if not found:
        raise InputError(f"{into}: lists no sequences, so none are needed; import the dataset there first")
    return found


def _plan(into: Path, sources: Sequence[Path], recipe: Recipe, needed: set[bytes] | None) -> _Plan:
    """The segments of one recipe in all sources, and how much of them `into` lacks; all of them open."""
    plan = _Plan(recipe, CacheReader(into, recipe), [], needed, 0, 0)
    wanted: set[bytes] = set()
    size = space = 0
    home = next(path for path in (store_folder(into), *store_folder(into).absolute().parents) if path.exists())
    for folder in (recipe.folder(source) for source in sources):
        for segment in _sources(folder, recipe):
            plan.segments.append(segment)
            before, records = size, len(wanted)
            for key, length in zip(map(bytes, segment.digest), np.diff(segment.offsets).tolist(), strict=True):
                if key not in wanted and key not in plan.held and (needed is None or key in needed):
                    wanted.add(key)
                    size += length
            whole = len(wanted) - records == segment.commit.records
            if not whole or segment.path.stat().st_dev != home.stat().st_dev:
                space += size - before
    row = recipe.dim * np.dtype(recipe.dtype).itemsize
    return plan._replace(bytes=size * row, space=space * row)


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


def _copy_recipe(
    into: Path, plan: _Plan, segment_bytes: int, link: bool, damage: list[str], seen: Seen
) -> tuple[int, int, int]:
    """Copy what `into` lacks of one recipe: records taken, records that were there, segments that were linked."""
    stored: set[bytes] = set()
    failed: dict[bytes, str] = {}
    already = linked = 0
    if not plan.bytes:  # no recipe is made that holds nothing
        keys = [key for segment in plan.segments for key in map(bytes, segment.digest)]
        return 0, sum(plan.needed is None or key in plan.needed for key in keys), 0
    store, compressor = laid_down_like([segment.stored_as for segment in plan.segments])
    with (
        stop_between_records() as stopping,
        CacheWriter(into, plan.recipe, segment_bytes=segment_bytes, store=store, compressor=compressor) as writer,
    ):
        while plan.segments:
            segment = plan.segments.pop(0)  # closed when it is done with
            whole = _taken_whole(into, plan, segment, stored, seen) if link else set()
            if whole:
                linked += 1
                stored |= whole
                continue
            for index, key in enumerate(map(bytes, segment.digest)):
                if stopping():
                    return len(stored), already, linked
                if plan.needed is not None and key not in plan.needed:
                    continue
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
    return len(stored), already, linked


def _taken_whole(into: Path, plan: _Plan, segment: Segment, stored: set[bytes], seen: Seen) -> set[bytes]:
    """The keys of a segment that was linked; none where it was not: a record is not wanted, or is damaged."""
    keys = [*map(bytes, segment.digest)]
    fresh = len({*keys}) == len(keys) and not any(key in stored or key in plan.held for key in keys)
    if not fresh or (plan.needed is not None and not plan.needed.issuperset(keys)):
        return set()
    try:
        for index in range(len(keys)):
            copy_record(segment, index, plan.recipe)
    except CacheCorrupt:
        return set()
    if not link_segment(into, plan.recipe, segment):
        return set()
    seen(segment.commit.rows * plan.recipe.dim * np.dtype(plan.recipe.dtype).itemsize)
    return {*keys}
