"""Negatives that keep every degree: the ends of the positives are joined anew (configuration model).

Each positive is cut into an end of A and an end of B.  The ends of B are shuffled; what may not be joined is repaired
by random swaps of two joints, and what swaps do not repair by augmenting paths (`augmenting`), which leave as few ends
open as can be.

Shapes: N ends of A, and as many of B.
"""

from __future__ import annotations

import numpy as np

from crossllm.pipeline.negatives.augmenting import OPEN, Joints
from crossllm.pipeline.negatives.candidates import EXCLUDED, Candidates

REPAIRS = 50
"""Rounds of swaps before augmenting paths are looked for; in each, every joint is tried with another once."""
MIXING = 20
"""Rounds after it: so that what the paths joined is random too."""


def rewire(a: np.ndarray, b: np.ndarray, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Join the ends of one part.

    Args:
        a, b: (N,) numbers of the sequences at the ends.
        candidates: what may be joined; no two sequences are joined twice.
        rng: of the draw.

    Returns:
        (N,) the end of B that each end of A is joined to; `OPEN` where none is left for it.
    """
    partner = _shuffled(b, candidates, rng)
    for _ in range(REPAIRS):
        if not (_levels(a, b, partner, candidates) > 0).any():
            break
        _swap(a, b, partner, candidates, rng)
    partner[_levels(a, b, partner, candidates) > 0] = OPEN
    joints = Joints(a, b, partner, candidates)
    for level in candidates.levels():
        joints.augment(level, rng)
    joined = np.flatnonzero(partner != OPEN)
    mixed = partner[joined]
    for _ in range(MIXING):
        _swap(a[joined], b, mixed, candidates, rng)
    partner[joined] = mixed
    return partner


def _shuffled(b: np.ndarray, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """(N,) a permutation of the ends of B; for hard negatives within the clusters of B."""
    shuffled = rng.permutation(len(b))
    if candidates.relatives is None:
        return shuffled
    cluster = candidates.relatives.b_cluster[b]
    partner = np.empty(len(b), np.int64)
    partner[np.argsort(cluster, kind="stable")] = shuffled[np.argsort(cluster[shuffled], kind="stable")]
    return partner


def _levels(a: np.ndarray, b: np.ndarray, partner: np.ndarray, candidates: Candidates) -> np.ndarray:
    """(N,) level of each joint; `EXCLUDED` too where the two sequences are joined a second time."""
    joined = b[partner]
    found = candidates.level(a, joined)
    first = np.unique(candidates.codes(a, joined), return_index=True)[1]
    again = np.ones(len(a), bool)
    again[first] = False
    found[again] = EXCLUDED
    return found


def _swap(a: np.ndarray, b: np.ndarray, partner: np.ndarray, candidates: Candidates, rng: np.random.Generator) -> None:
    """Try every joint with another: the two change partners, in place, where their levels do not become worse."""
    half = len(a) // 2
    order = rng.permutation(len(a))
    one, other = order[:half], order[half : 2 * half]
    now = _levels(a, b, partner, candidates)
    crossed = (a[one], b[partner[other]]), (a[other], b[partner[one]])
    levels = [candidates.level(*pair) for pair in crossed]
    codes = np.concatenate([candidates.codes(*pair) for pair in crossed])
    new = ~np.isin(codes, candidates.codes(a, b[partner]))
    better = (levels[0] + levels[1] <= now[one] + now[other]) & new[:half] & new[half:]
    better &= np.maximum(*levels) <= np.maximum(now[one], now[other])
    tried = np.flatnonzero(better)
    both = np.concatenate([codes[tried], codes[half + tried]])
    first = np.zeros(len(both), bool)
    first[np.unique(both, return_index=True)[1]] = True
    taken = tried[first[: len(tried)] & first[len(tried) :]]  # two swaps of one round never make the same pair
    partner[one[taken]], partner[other[taken]] = partner[other[taken]], partner[one[taken]]
