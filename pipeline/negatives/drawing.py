"""`draw`: the negatives of every part, each made of the A of one positive and the B of another.

Shapes: P positives, M negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossllm.pipeline.negatives.augmenting import OPEN
from crossllm.pipeline.negatives.candidates import EXCLUDED, Candidates
from crossllm.pipeline.negatives.options import Match
from crossllm.pipeline.negatives.rewiring import rewire

TRIES = 50
"""Rounds of random pairs, where no degrees are kept, after which a part has what it has."""


class Positives(NamedTuple):
    """Known interactions, and the part that each is in."""

    a_ids: np.ndarray
    """(P,) number of the id."""
    b_ids: np.ndarray
    a: np.ndarray
    """(P,) number of the sequence, as in `Candidates`."""
    b: np.ndarray
    part: np.ndarray
    """(P,) from 0."""


class Drawn(NamedTuple):
    """Negative m is the A of positive `a_of[m]` and the B of positive `b_of[m]`, both of one part."""

    a_of: np.ndarray
    """(M,)"""
    b_of: np.ndarray
    """(M,)"""
    missing: list[int]
    """Part → negatives that could not be drawn."""


def draw(positives: Positives, candidates: Candidates, per_positive: int, match: Match, seed: int) -> Drawn:
    """Draw within each part; no two sequences are drawn twice, in whatever parts.

    Args:
        positives: all of them.
        candidates: what may be drawn.
        per_positive: negatives for one positive.
        match: whether degrees are kept.
        seed: the same, the same negatives.
    """
    parts = int(positives.part.max()) + 1
    of_part = [np.flatnonzero(positives.part == part) for part in range(parts)]
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(parts)]
    kind = _rewired if match == "degree" else _uniform
    for turn in range(per_positive):
        for part in ((turn + n) % parts for n in range(parts)):  # what is scarce is taken by each part in turn
            rng = np.random.default_rng((seed, turn, part))
            a_of, b_of = kind(positives, of_part[part], candidates, rng)
            found[part].append((a_of, b_of))
            candidates = candidates.without(positives.a[a_of], positives.b[b_of])
    sides = [np.concatenate([np.stack(turn) for turn in turns], axis=1) for turns in found]
    missing = [per_positive * len(inside) - side.shape[1] for inside, side in zip(of_part, sides, strict=True)]
    a_of, b_of = np.concatenate(sides, axis=1)
    return Drawn(a_of, b_of, missing)


def _rewired(
    positives: Positives, of_part: np.ndarray, candidates: Candidates, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Every id as often as in the part's positives, × `per_positive`, as far as that can be."""
    partner = rewire(positives.a[of_part], positives.b[of_part], candidates, rng)
    joined = partner != OPEN
    return of_part[joined], of_part[partner[joined]]


def _uniform(
    positives: Positives, of_part: np.ndarray, candidates: Candidates, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Uniformly random pairs of the part's ids."""
    wanted = len(of_part)
    a_first, b_first = (of_part[np.unique(ids[of_part], return_index=True)[1]]
                        for ids in (positives.a_ids, positives.b_ids))  # fmt: skip
    a_of = b_of = np.empty(0, np.int64)
    for _ in range(TRIES):
        a_of = np.concatenate([a_of, rng.choice(a_first, wanted)])
        b_of = np.concatenate([b_of, rng.choice(b_first, wanted)])
        a, b = positives.a[a_of], positives.b[b_of]
        first = np.sort(np.unique(candidates.codes(a, b), return_index=True)[1])
        kept = first[candidates.level(a[first], b[first]) < EXCLUDED][:wanted]
        a_of, b_of = a_of[kept], b_of[kept]
        if len(kept) == wanted:
            break
    return a_of, b_of
