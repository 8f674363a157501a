"""A cache as `crossllm doctor` sees it: what is in it, what is damaged by the cheap check, what could be tidied up."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from crossllm.cache.console.messages import size_in_words
from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.cache.maintenance.inspection import info, verify
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import list_recipes
from crossllm.checks import Check

_SECTION = "cache"
_MANY = 100
"""Segments of a recipe from which on opening it takes longer than compacting it once is worth."""
_SHOWN = 5
"""Damaged things that are named."""


def check_cache(folder: str) -> list[Check]:
    """Structure and small files; rows are not read, and nothing is changed.

    Args:
        folder: of the cache.

    Raises:
        InputError: there is no cache.
    """
    return [*_looked_at(Path(folder), shlex.quote(folder))]


def _looked_at(cache_dir: Path, shown: str) -> Iterator[Check]:
    report = verify(cache_dir, data=False)
    for found in report.damage[:_SHOWN]:
        yield Check(_SECTION, "damage", "broken", str(found), f"crossllm cache repair {shown} --dry-run")
    if len(report.damage) > _SHOWN:
        more = f"{len(report.damage) - _SHOWN} more, {len(report.damage)} in all"
        yield Check(_SECTION, "damage", "broken", more, f"crossllm cache verify {shown}")
    if not report.damage:
        said = f"none in structure and small files: {report.segments} segments, {report.records} records"
        yield Check(_SECTION, "damage", "ok", said)
    if report.leftovers:
        said = f"{len(report.leftovers)} uncommitted segment folders of interrupted or running writers"
        yield Check(_SECTION, "writers", "improve", said, f"crossllm cache gc {shown}", needed=False)
    try:
        yield from _recipes(cache_dir, shown)
        yield from _missing(cache_dir, shown)
    except (CacheCorrupt, InputError):  # said above
        return


def _recipes(cache_dir: Path, shown: str) -> Iterator[Check]:
    for one in info(cache_dir):
        name = f"{one.modality} {one.encoder}"
        said = f"{one.sequences} sequences, {size_in_words(one.bytes)} in {one.segments} segments ({one.digest[:8]})"
        if one.segments > _MANY:
            yield Check(_SECTION, name, "improve", said, f"crossllm cache compact {shown}", needed=False)
        else:
            yield Check(_SECTION, name, "ok", said)


def _missing(cache_dir: Path, shown: str) -> Iterator[Check]:
    """Sequences that the cache lists by id and that a recipe has no rows of."""
    for modality in MODALITIES:
        keys = list({entry.key for entry in read_table(cache_dir, modality).values()})
        for recipe in list_recipes(cache_dir, modality):
            if missing := CacheReader(cache_dir, recipe).missing(keys):
                said = f"{len(missing)} of {len(keys)} {modality} sequences have no rows of {recipe.encoder}"
                mend = f"embed run --modality {modality} -i FILE --encoder {recipe.encoder} -c {shown}"
                yield Check(_SECTION, "rows", "improve", said, mend, needed=False)
