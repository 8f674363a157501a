"""What a worker is given and what it answers: records in, numbers and names of failures out, never rows.

Shapes: p pending sequences, k of a batch, t recipes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from crossllm.cache.records.record import Record

RECORD = 32
"""Residues that the work around a record counts as: a batch of very short sequences is no endless list."""
SHARES, FEWEST = 16, 4
"""Batches for each worker, so that the last ones end together: as many where they are large enough, these at least."""


class Task(NamedTuple):
    """Sequences that are handed out together, by their places in the plan."""

    places: np.ndarray
    """(k,) among the distinct sequences."""
    deaths: int = 0
    """Workers that have ended while they had these sequences."""


class Batch(NamedTuple):
    """The same as a worker gets it."""

    records: tuple[Record, ...]
    lacks: np.ndarray
    """(t, k) bool: which recipe lacks which record."""


class PartDone(NamedTuple):
    """One recipe's part of a batch."""

    stored: int
    failures: dict[bytes, str]
    """Key → why it has no rows."""


class Done(NamedTuple):
    """What became of a whole batch; what is said to be stored is committed."""

    parts: tuple[PartDone, ...]
    stored: int
    """Sequences stored in every recipe that lacked them."""
    residues: int
    """Their rows in one recipe."""
    notes: tuple[tuple[str, int], ...]
    """What the encoder's input lost on the way in, and of how many records."""


def cut(lengths: np.ndarray, workers: int, least: int, most: int) -> Iterator[np.ndarray]:
    """Places of the sequences of one batch after the other, about as much work each, the longest sequences first.

    Sequences of a batch are of like length, as encoders want them.  The longest come first so that the end of a run
    is made of small pieces.

    Args:
        lengths: (p,) of the pending sequences.
        workers: among which they are shared out.
        least: residues below which the work around a batch, above all its commit, takes too large a share.
        most: residues whose rows fill a segment.
    """
    order = np.argsort(-lengths, kind="stable")
    work = np.cumsum(lengths[order] + RECORD)
    if not len(work):
        return
    share = int(work[-1]) / workers
    budget = max(1, min(most, math.ceil(max(share / SHARES, min(least, share / FEWEST)))))
    bounds = np.flatnonzero(np.diff((work - 1) // budget)) + 1
    yield from np.split(order, bounds)


def split(places: np.ndarray, deaths: int) -> list[np.ndarray]:
    """The pieces in which a batch is tried again whose workers have ended: √k of them, then one by one.

    So a record that ends its worker whatever is beside it is alone when it does so for the third time.
    """
    pieces = math.ceil(math.sqrt(len(places))) if deaths < 2 else len(places)
    return np.array_split(places, pieces)
