"""Metrics over folds with bootstrap intervals, for both tasks.

A weight says how often a bootstrap replicate drew a pair; the point estimate is the replicate of all ones.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crossllm.pipeline.data.pairs import Task
from crossllm.pipeline.evaluation import classification, regression

REPLICATES = 1000
BLOCK = 50
METRICS: dict[Task, tuple[str, ...]] = {
    "classification": classification.METRICS,
    "regression": regression.METRICS,
}
"""Task → the names of its metrics; the first is the one a result is read by."""


class Scored(NamedTuple):
    """Predictions of one test fold."""

    label: np.ndarray
    """(P,) 0 or 1, or affinities."""
    score: np.ndarray
    """(P,) probability of label 1, or predicted affinities."""
    predicted: np.ndarray
    """(P,) 0 or 1; in a regression the score itself."""


class Summary(NamedTuple):
    """One metric over the folds."""

    mean: float
    std: float
    """Sample standard deviation over folds, 0 for a single one."""
    ci95: tuple[float, float]
    """Percentile interval of the mean over folds when the pairs within each fold are drawn again."""
    per_fold: tuple[float, ...]
    """The metric of each fold; NaN where it is undefined."""


def compute(task: Task, fold: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of the task for each row of weights: (R, P) → name → (R,)."""
    if task == "classification":
        return classification.compute(fold.label, fold.score, fold.predicted, weights)
    return regression.compute(fold.label, fold.score, weights)


def summarise(task: Task, folds: Sequence[Scored], seed: int, replicates: int = REPLICATES) -> dict[str, Summary]:
    """Every metric of the task over the folds; one that a fold leaves undefined (a single class) is NaN there."""
    rng = np.random.default_rng(seed)
    points, draws = [], []
    for fold in folds:
        points.append(compute(task, fold, np.ones((1, len(fold.label)))))
        blocks = [compute(task, fold, _resample(rng, len(fold.label), n)) for n in _block_sizes(replicates)]
        draws.append({name: np.concatenate([block[name] for block in blocks]) for name in METRICS[task]})
    found = {}
    for name in METRICS[task]:
        values = np.array([point[name][0] for point in points])
        means = np.mean([draw[name] for draw in draws], axis=0)
        means = means[np.isfinite(means)]
        interval = np.percentile(means, [2.5, 97.5]) if len(means) else np.array([np.nan, np.nan])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        found[name] = Summary(
            float(values.mean()), spread, (float(interval[0]), float(interval[1])), tuple(values.tolist())
        )
    return found


def pooled(folds: Sequence[Scored]) -> Scored:
    """The test predictions of all folds as one set: each pair once, predicted by a model that never saw it."""
    return Scored(*(np.concatenate(parts) for parts in zip(*folds, strict=True)))


def _block_sizes(replicates: int) -> list[int]:
    """Replicates are drawn in blocks, so that memory does not grow with their number."""
    return [min(BLOCK, replicates - start) for start in range(0, replicates, BLOCK)]


def _resample(rng: np.random.Generator, pairs: int, replicates: int) -> np.ndarray:
    """(R, P): how often each pair is drawn in each replicate."""
    return rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=replicates).astype(float)
