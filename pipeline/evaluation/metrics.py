"""Metrics over folds with bootstrap intervals, for both tasks.

A weight says how often a bootstrap replicate drew a pair; the point estimate is the replicate of all ones.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation import classification, regression
from crossllm.pipeline.evaluation.draws import Draws

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
    """(P,) higher for label 1, from 0 to 1, or predicted affinities."""
    predicted: np.ndarray
    """(P,) 0 or 1; in a regression the score itself."""


class Partners(NamedTuple):
    """Which distinct sequences the pairs of one test fold are of: what a bootstrap draws."""

    a: np.ndarray
    """(P,) number of each pair's first sequence."""
    b: np.ndarray
    """(P,) number of its second; where both sides are of one modality, in the same numbering."""
    one_numbering: bool = False


class Summary(NamedTuple):
    """One metric over the folds."""

    mean: float
    """Over the folds in which it is defined; NaN where there is none."""
    std: float
    """Sample standard deviation over those folds; NaN for a single one."""
    ci95: tuple[float, float]
    """Percentile interval of the mean over folds when the sequences of both sides are drawn again."""
    per_fold: tuple[float, ...]
    """The metric of each fold; NaN where it is undefined."""


def compute(task: Task, fold: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of the task for each row of weights: (R, P) → name → (R,); NaN where one is undefined."""
    if task == "classification":
        return classification.compute(fold.label, fold.score, fold.predicted, weights)
    return regression.compute(fold.label, fold.score, weights)


def compute_drawn(task: Task, fold: Scored, draws: Draws) -> dict[str, np.ndarray]:
    """`compute` of the weights that `draws` stand for, by compiled kernels: name → (R,); equal but for rounding."""
    if task == "classification":
        from crossllm.pipeline.evaluation import drawn_classification  # numba is not needed elsewhere

        return drawn_classification.compute_drawn(fold.label, fold.score, fold.predicted, draws)
    from crossllm.pipeline.evaluation import drawn_regression

    return drawn_regression.compute_drawn(fold.label, fold.score, draws)


def summarise(
    task: Task,
    folds: Sequence[Scored],
    seed: int,
    partners: Sequence[Partners] | None = None,
    replicates: int = REPLICATES,
    update: Callable[[int], object] = lambda _count: None,
) -> dict[str, Summary]:
    """Every metric of the task over the folds.

    A fold that leaves a metric undefined (a single class) is left out of its mean and its interval, and so is a
    replicate that does.

    Args:
        task: classification or regression.
        folds: the predictions of each.
        seed: of the bootstrap.
        partners: of each fold.  A replicate draws the distinct sequences of each side again, over all folds at once,
            and a pair counts as often as both of its sequences were drawn together (the pigeonhole bootstrap of Owen,
            Ann Appl Stat 2007;1:386): pairs that share a sequence are no independent draws.  None: every pair has two
            sequences of its own, so that pairs are drawn.
        replicates: R.
        update: called with the number of replicates done since the last call.
    """
    rng = np.random.default_rng(seed)
    points = [compute(task, fold, np.ones((1, len(fold.label)))) for fold in folds]
    draws: list[list[dict[str, np.ndarray]]] = [[] for _ in folds]
    for count in block_sizes(replicates):
        for fold, own, drawn in zip(folds, draw(rng, folds, partners, count), draws, strict=True):
            drawn.append(compute_drawn(task, fold, own))
        update(count)
    found = {}
    for name in METRICS[task]:
        values = np.array([point[name][0] for point in points])
        defined = np.isfinite(values)
        replicate = np.stack([np.concatenate([block[name] for block in drawn]) for drawn in draws])[defined]
        found[name] = Summary(
            float(values[defined].mean()) if defined.any() else np.nan,
            float(values[defined].std(ddof=1)) if defined.sum() > 1 else np.nan,
            _interval(replicate),
            tuple(values.tolist()),
        )
    return found


def as_json(summaries: dict[str, Summary]) -> dict[str, Any]:
    """As `metrics.json` has them.  NaN (a metric that a one-class fold leaves undefined) becomes null."""

    def number(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        name: {
            "mean": number(s.mean),
            "std": number(s.std),
            "ci95": [number(v) for v in s.ci95],
            "per_fold": [number(v) for v in s.per_fold],
        }
        for name, s in summaries.items()
    }


def why_undefined(task: Task, fold: Scored) -> str | None:
    """Why metrics of a fold are undefined, in words; None where all are defined."""
    count, labels = len(fold.label), len(set(fold.label.tolist()))
    pairs = "its one test pair" if count == 1 else f"all {count} test pairs"
    if task == "classification":
        if labels > 1:
            return None
        of = "is" if count == 1 else "are"
        return f"{pairs} {of} {'positive' if fold.label[0] == 1 else 'negative'}"
    if labels < 2:
        return f"{pairs} {'has' if count == 1 else 'have'} the same label"
    return "every test pair is predicted the same" if len(set(fold.score.tolist())) < 2 else None


def _interval(replicates: np.ndarray) -> tuple[float, float]:
    """Of the mean over folds: (folds, R), NaN where a replicate leaves a fold undefined."""
    defined = np.isfinite(replicates)
    counts = defined.sum(axis=0)
    sums = np.where(defined, replicates, 0).sum(axis=0)
    means = sums[counts > 0] / counts[counts > 0]
    low, high = np.percentile(means, [2.5, 97.5]) if len(means) else (np.nan, np.nan)
    return float(low), float(high)


def draw(
    rng: np.random.Generator, folds: Sequence[Scored], partners: Sequence[Partners] | None, replicates: int
) -> list[Draws]:
    """Of each fold, R replicates; a sequence counts the same in all of them."""
    if partners is None:
        once = np.ones((replicates, 1), np.int32)
        sizes = [len(fold.label) for fold in folds]
        return [Draws(_drawn(rng, n, replicates), once, np.arange(n), np.zeros(n, int)) for n in sizes]
    drawn_a = _drawn(rng, 1 + max(int(found.a.max()) for found in partners), replicates)
    drawn_b = _drawn(rng, 1 + max(int(found.b.max()) for found in partners), replicates)
    if partners[0].one_numbering:
        count = max(drawn_a.shape[1], drawn_b.shape[1])
        drawn_a = drawn_b = _drawn(rng, count, replicates)
    return [Draws(drawn_a, drawn_b, found.a, found.b) for found in partners]


def pooled(folds: Sequence[Scored]) -> Scored:
    """The test predictions of all folds as one set: each pair once, predicted by a model that never saw it."""
    return Scored(*(np.concatenate(parts) for parts in zip(*folds, strict=True)))


def block_sizes(replicates: int) -> list[int]:
    """Replicates are drawn in blocks, so that memory does not grow with their number."""
    return [min(BLOCK, replicates - start) for start in range(0, replicates, BLOCK)]


def _drawn(rng: np.random.Generator, count: int, replicates: int) -> np.ndarray:
    """(R, count): how often each of `count` things is drawn in each replicate, `count` draws with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=replicates).astype(np.int32)
