"""Affinity metrics of bootstrap replicates by a compiled kernel: those of `regression`, without its (R, P).

Shapes: R replicates, P pairs, L and S distinct labels and scores.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from crossllm.kernels import kernel
from crossllm.pipeline.evaluation.draws import Draws, in_threads
from crossllm.pipeline.evaluation.regression import METRICS, in_units_of_the_largest


def compute_drawn(label: np.ndarray, score: np.ndarray, draws: Draws) -> dict[str, np.ndarray]:
    """`regression.compute` of the weights that `draws` stand for: name → (R,); equal to it but for rounding."""
    label, score = label.astype(float), score.astype(float)
    order = np.argsort(label, kind="stable")
    _, low = np.unique(label[order], return_inverse=True)
    _, rank = np.unique(score[order], return_inverse=True)
    x, y = in_units_of_the_largest(label)[order], in_units_of_the_largest(score)[order]
    groups = low.astype(np.int32), rank.astype(np.int32)
    found = in_threads(_by_rising_label, len(METRICS), draws, order, x, y, *groups, (score - label)[order])
    return dict(zip(METRICS, found.T, strict=True))


@kernel(nogil=True, error_model="numpy")
def _by_rising_label(found, a_times, b_times, a, b, x, y, low, rank, difference):  # type: ignore[no-untyped-def]
    """All metrics of each replicate, from the pairs it drew alone: four in ten where both sides are drawn."""
    pairs, weights = np.empty(len(a), np.int64), np.empty(len(a), np.int64)
    sizes_x, sizes_y = np.empty(low[-1] + 1, np.int64), np.empty(rank.max() + 1, np.int64)
    ranks_x, ranks_y = np.empty(len(sizes_x)), np.empty(len(sizes_y))
    tree, own = np.empty(len(sizes_y) + 1, np.int64), np.empty(len(sizes_y), np.int64)
    for r in range(len(found)):
        count = total = 0
        sum_x = sum_y = squares = absolute = 0.0
        sizes_x[:], sizes_y[:] = 0, 0
        for n in range(len(a)):
            weight = np.int64(a_times[r, a[n]]) * b_times[r, b[n]]
            if weight:
                pairs[count], weights[count] = n, weight
                count += 1
                total += weight
                sum_x += weight * x[n]
                sum_y += weight * y[n]
                squares += weight * difference[n] ** 2
                absolute += weight * abs(difference[n])
                sizes_x[low[n]] += weight
                sizes_y[rank[n]] += weight
        floor = 1e-24 * total  # as `regression` has it
        rank_xx = _centred_ranks(sizes_x, total, ranks_x)
        rank_yy = _centred_ranks(sizes_y, total, ranks_y)
        mean_x, mean_y = sum_x / total, sum_y / total
        xx = yy = xy = rank_xy = 0.0
        for at in range(count):
            n, weight = pairs[at], weights[at]
            own_x, own_y = x[n] - mean_x, y[n] - mean_y
            xx += weight * own_x * own_x
            yy += weight * own_y * own_y
            xy += weight * own_x * own_y
            rank_xy += weight * ranks_x[low[n]] * ranks_y[rank[n]]
        found[r, 0] = _correlation(xx, yy, xy, floor)
        found[r, 1] = _correlation(rank_xx, rank_yy, rank_xy, floor)
        found[r, 2], found[r, 3] = np.sqrt(squares / total), absolute / total
        tree[:], own[:] = 0, 0
        found[r, 4] = _concordance(pairs[:count], weights[:count], low, rank, tree, own)


@njit(error_model="numpy")
def _correlation(xx, yy, xy, floor):  # type: ignore[no-untyped-def]
    return xy / (np.sqrt(xx) * np.sqrt(yy)) if xx > floor and yy > floor else np.nan


@njit(error_model="numpy")
def _centred_ranks(sizes, total, ranks):  # type: ignore[no-untyped-def]
    """Mean rank of each group of equal values less the mean of all ranks, in units of `total`; the sum of squares."""
    before, squares = 0, 0.0
    for group in range(len(sizes)):
        ranks[group] = (before + (sizes[group] + 1) / 2 - (total + 1) / 2) / total
        squares += sizes[group] * ranks[group] * ranks[group]
        before += sizes[group]
    return squares


@njit(error_model="numpy")
def _concordance(pairs, weights, low, rank, tree, own):  # type: ignore[no-untyped-def]
    """As `concordance` has it, in whole numbers: over a Fenwick tree of the scores with a lower label.

    Args:
        pairs, weights: what was drawn, by rising label.
        low, rank: number of each pair's label and score among the distinct ones.
        tree, own: (S + 1,) and (S,) zeros.
    """
    twice = compared = seen = start = 0
    while start < len(pairs):
        end = start
        while end < len(pairs) and low[pairs[end]] == low[pairs[start]]:
            at = rank[pairs[end]]
            score = own[at]
            while at > 0:  # weight of the scores below this one
                score += 2 * tree[at]
                at -= at & -at
            twice += weights[end] * score
            compared += weights[end] * seen
            end += 1
        for entered in range(start, end):
            weight = weights[entered]
            own[rank[pairs[entered]]] += weight
            seen += weight
            at = rank[pairs[entered]] + 1
            while at < len(tree):
                tree[at] += weight
                at += at & -at
        start = end
    return twice / (2.0 * compared) if compared > 0 else np.nan
