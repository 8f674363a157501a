"""`Shard`: one of N parts of a file's distinct sequences, cut by key and balanced by residues.

The distinct sequences are put in the order of their keys, and that line is cut where the residues reach i/N of all.
So the cut hangs on the set of sequences alone: another process, another order of the file, other ids or a sequence
that stands there twice change nothing.  A shard's residues differ from the Nth part by less than the longest sequence.
Keys are digests, so lengths and costs are mixed evenly over the shards.  Where a file grows the cuts move a little:
what moved into another shard and is in the cache already is left out there, as everything that is done is.

Shapes: n distinct sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossllm.cache.records.keys import prefixes
from crossllm.cache.records.record_list import Distinct, RecordList, Records

MOST_SHARDS = 1 << 20
"""So that the products of `numbers` stay integers of 64 bits for 10¹² residues."""


class Shard(NamedTuple):
    """One part of several."""

    number: int
    """Counted from 0."""
    total: int


def numbers(distinct: Distinct, count: int) -> np.ndarray:
    """(n,) int64: the shard that each distinct sequence is in, of `count` shards; some may be empty."""
    order = by_key(distinct.digests)
    lengths = np.asarray(distinct.lengths[order], np.int64)
    ends = np.cumsum(lengths)
    found = np.empty(len(order), np.int64)
    if len(order):
        # By its middle, so that one sequence longer than a part lies where most of it would.
        found[order] = (2 * ends - lengths) * count // (2 * int(ends[-1]))
    return found


def by_key(digests: np.ndarray) -> np.ndarray:
    """(n,) places of n distinct keys, (n, 32) uint8, in the order of the keys."""
    prefix = prefixes(digests)
    order = np.argsort(prefix, kind="stable")
    if (prefix[order][1:] == prefix[order][:-1]).any():  # once in 10⁷ files of a million: the other bytes decide
        words = np.ascontiguousarray(digests).view(">u8")
        order = np.lexsort(words.T[::-1])
    return order


def of_shard(records: Records, shard: Shard) -> Records:
    """The records of a shard: all whose sequence is in it, whatever their ids."""
    given = RecordList.of(records.records)
    distinct = Distinct(given)
    chosen = numbers(distinct, shard.total) == shard.number
    if len(distinct) < len(given):
        chosen = chosen[distinct.find_many(given.keys)]
    return records._replace(records=given.take(np.flatnonzero(chosen)))
