"""Sequences longer than a model takes: overlapping windows, and which rows of each are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from cache.records import Record


class Window(NamedTuple):
    """One stretch of a sequence that is encoded whole; positions count from the start of the sequence."""

    start: int
    stop: int
    keep_from: int
    """Rows keep_from … keep_to − 1 of the sequence are taken from this window."""
    keep_to: int


def windows(length: int, policy: str) -> list[Window]:
    """The windows of a sequence under a recipe's `long`: `whole`, or `window:N:OVERLAP`.

    All are N long where the sequence is, the last moved back to the end.  Two neighbours are cut at the middle of
    their overlap, so every row comes from the window in which it stands furthest from a border.
    """
    size, overlap = (length, 0) if policy == "whole" else map(int, policy.split(":")[1:])
    if length <= size:
        return [Window(0, length, 0, length)]
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
