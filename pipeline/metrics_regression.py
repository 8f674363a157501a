"""Affinity metrics, computed for many weightings of the same pairs at once.  Held to scipy's by a test.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

import numpy as np

BLOCK = 512
"""Rows of the P × P table of comparisons held at a time."""
METRICS = ("pearson", "spearman", "rmse", "mae", "concordance")


def compute(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of `METRICS` for each row of weights: (R, P) → name → (R,); NaN where one is undefined.

    Args:
        label: (P,) measured affinities.
        score: (P,) predicted affinities, in the same unit.
        weights: (R, P) how often each pair counts.
    """
    label, score = label.astype(float), score.astype(float)
    total = weights.sum(axis=1)
    difference = score - label
    return {
        "pearson": _correlation(label[None, :], score[None, :], weights),
        "spearman": _correlation(_ranks(label, weights), _ranks(score, weights), weights),
        "rmse": np.sqrt(weights @ difference**2 / total),
        "mae": weights @ np.abs(difference) / total,
        "concordance": _concordance(label, score, weights),
    }


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of each replicate; x, y (R or 1, P)."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    xx, yy, xy = ((weights * product).sum(axis=1) for product in (x * x, y * y, x * y))
    scale = np.sqrt(xx * yy)
    # A constant leaves rounding errors for a variance, and they correlate with anything.
    defined = (xx > 1e-20 * total[:, 0]) & (yy > 1e-20 * total[:, 0])
    found: np.ndarray = np.divide(xy, scale, out=np.full_like(scale, np.nan), where=defined)
    return found


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, P) ranks within each replicate, equal values (a pair drawn twice among them) sharing their mean rank."""
    _, group = np.unique(values, return_inverse=True)
    sizes = np.zeros((len(weights), int(group.max()) + 1))
    np.add.at(sizes.T, group, weights.T)
    before = np.cumsum(sizes, axis=1) - sizes
    ranks: np.ndarray = (before + (sizes + 1) / 2)[:, group]
    return ranks


def _concordance(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the pairs of pairs with different labels that the scores order alike, equal scores counting half.

    Harrell et al., JAMA 1982;247:2543; in affinity prediction since Gönen & Heller, Biometrika 2005;92:965.
    """
    alike, compared = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(label), BLOCK):
        rows = slice(start, start + BLOCK)
        larger = (label[rows, None] > label[None, :]).astype(float)
        sign = np.sign(score[rows, None] - score[None, :])
        alike += ((weights[:, rows] @ (larger * (sign + 1) / 2)) * weights).sum(axis=1)
        compared += ((weights[:, rows] @ larger) * weights).sum(axis=1)
    found: np.ndarray = np.divide(alike, compared, out=np.full_like(alike, np.nan), where=compared > 0)
    return found
