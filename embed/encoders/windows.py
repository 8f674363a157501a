"""Sequences longer than a model takes: overlapping windows and which rows of each are kept, or the start alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from crossllm.cache.records.modality import UNITS
from crossllm.cache.records.record import Record
from crossllm.cache.store.recipe import Recipe


class Window(NamedTuple):
    """One stretch of a sequence that is encoded whole; positions count from the start of the sequence."""

    start: int
    stop: int
    keep_from: int
    """Rows keep_from … keep_to − 1 of the sequence are taken from this window."""
    keep_to: int


class Cut(NamedTuple):
    """What a recipe that truncates leaves out."""

    sequences: int
    """How many are cut."""
    rows: int
    """Residues or nucleotides that have no row because of it."""


def stored_rows(recipe: Recipe, lengths: ArrayLike) -> np.ndarray:
    """(n,) rows that a recipe stores of sequences of these lengths: `Recipe.rows_of` of each."""
    return np.minimum(np.asarray(lengths, np.int64), recipe.rows_of(sys.maxsize))


def left_out(recipe: Recipe, lengths: ArrayLike) -> Cut:
    """What a recipe leaves out of sequences of these lengths, (n,) integers; nothing unless it truncates."""
    lost = np.asarray(lengths, np.int64) - stored_rows(recipe, lengths)
    return Cut(int(np.count_nonzero(lost)), int(lost.sum()))


def cut_note(recipe: Recipe, cut: Cut) -> str:
    """The line that tells the user of it."""
    noun = "sequence" if cut.sequences == 1 else "sequences"
    size, unit = recipe.long.partition(":")[2], UNITS[recipe.modality]
    return f"{cut.sequences} {noun} cut to the first {size} {unit} (--long truncate), {cut.rows} {unit} have no row"


def windows(length: int, policy: str) -> list[Window]:
    """The windows of a sequence under a recipe's `long`: `whole`, `window:N:OVERLAP` or `truncate:N`.

    All are N long where the sequence is, the last moved back to the end.  Two neighbours are cut at the middle of
    their overlap, so every row comes from the window in which it stands furthest from a border.  Under `truncate`
    there is the first alone, and so fewer rows than the sequence is long.
    """
    name, *numbers = policy.split(":")
    size = int(numbers[0]) if numbers else length
    if length <= size or name == "truncate":
        return [Window(0, min(length, size), 0, min(length, size))]
    overlap = int(numbers[1])
    starts = [*range(0, length - size, size - overlap), length - size]
    cuts = [0, *((before + size + after) // 2 for before, after in pairwise(starts)), length]
    return [Window(start, start + size, cuts[n], cuts[n + 1]) for n, start in enumerate(starts)]


def by_budget(records: Iterable[Record], tokens: int) -> Iterator[list[Record]]:
    """Records in their order, in groups of at most `tokens` rows; a longer record is a group of its own."""
    group: list[Record] = []
    total = 0
    for record in records:
        if group and total + record.length > tokens:
            yield group
            group, total = [], 0
        group.append(record)
        total += record.length
    if group:
        yield group
