"""Affinity metrics, computed for many weightings of the same pairs at once.  Held to scipy's by a test.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

import numpy as np

METRICS = ("pearson", "spearman", "rmse", "mae", "concordance")


def compute(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of `METRICS` for each row of weights: (R, P) → name → (R,); NaN where one is undefined.

    Args:
        label: (P,) measured affinities.
        score: (P,) predicted affinities, in the same unit.
        weights: (R, P) how often each pair counts.
    """
    from crossllm.pipeline.evaluation.concordance import concordance  # numba is not needed elsewhere

    label, score = label.astype(float), score.astype(float)
    total = weights.sum(axis=1)
    difference = score - label
    with np.errstate(invalid="ignore", divide="ignore"):  # a replicate may draw no pair of a fold
        return {
            "pearson": _correlation(label[None, :], score[None, :], weights),
            "spearman": _correlation(_ranks(label, weights), _ranks(score, weights), weights),
            "rmse": np.sqrt(weights @ difference**2 / total),
            "mae": weights @ np.abs(difference) / total,
            "concordance": concordance(label, score, weights),
        }


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of each replicate; x, y (R or 1, P)."""
    total = weights.sum(axis=1, keepdims=True)
    x, x_floor = _centred(x, weights, total)
    y, y_floor = _centred(y, weights, total)
    xx, yy, xy = ((weights * product).sum(axis=1) for product in (x * x, y * y, x * y))
    defined = (xx > x_floor) & (yy > y_floor)
    scale = np.sqrt(xx) * np.sqrt(yy)
    found: np.ndarray = np.divide(xy, scale, out=np.full_like(scale, np.nan), where=defined)
    return found


def _centred(x: np.ndarray, weights: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deviations from the weighted mean in units of the largest value, and the sum of squares that is rounding alone.

    A constant leaves rounding errors for a variance, and they correlate with anything.  Relative, because affinities
    may be in molar: 9e-12 is no rounding error then.
    """
    x = in_units_of_the_largest(x)
    return x - (weights * x).sum(axis=1, keepdims=True) / total, 1e-24 * total[:, 0]


def in_units_of_the_largest(x: np.ndarray) -> np.ndarray:
    """Divided by the largest absolute value, where one is not 0."""
    largest = np.abs(x).max()
    found: np.ndarray = x / largest if largest > 0 else x
    return found


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, P) ranks within each replicate, equal values (a pair drawn twice among them) sharing their mean rank."""
    _, group = np.unique(values, return_inverse=True)
    sizes = np.zeros((len(weights), int(group.max()) + 1))
    np.add.at(sizes.T, group, weights.T)
    before = np.cumsum(sizes, axis=1) - sizes
    ranks: np.ndarray = (before + (sizes + 1) / 2)[:, group]
    return ranks
