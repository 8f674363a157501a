"""Two models on the same test pairs: difference of every metric by a paired bootstrap, and a paired test on the pairs.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.metrics import (
    METRICS,
    REPLICATES,
    Partners,
    Scored,
    block_sizes,
    compute,
    compute_drawn,
    draw,
)


class Folds(NamedTuple):
    """The test folds of one model: predictions of each, and which sequences their pairs are of."""

    scored: Sequence[Scored]
    partners: Sequence[Partners]


class Unit(NamedTuple):
    """The same test pairs, predicted by two models: those of one seed each."""

    first: Folds
    second: Folds


class Difference(NamedTuple):
    """One metric of two models; None where it is undefined."""

    first: float | None
    """Mean over seeds of the mean over folds."""
    second: float | None
    difference: float | None
    """second − first."""
    ci95: tuple[float, float] | None
    """Percentile interval of the difference when the sequences of both sides are drawn again."""
    p: float | None
    """Two-sided, of the same replicates: at least 2 / (R + 1)."""


class PairTest(NamedTuple):
    """A paired test on single pairs."""

    name: str
    pairs: int
    """That both models predicted."""
    first_better: int
    second_better: int
    p: float


def paired_bootstrap(
    task: Task, units: Sequence[Unit], seed: int = 0, replicates: int = REPLICATES
) -> dict[str, Difference]:
    """Every metric of both models and its difference.

    A replicate draws the distinct sequences of each side once, for both models, all their folds and all seeds (the
    pigeonhole bootstrap of Owen, Ann Appl Stat 2007;1:386), so that what is hard for both does not widen the interval.

    Args:
        task: classification or regression.
        units: of each seed; one numbering of sequences over all of them.
        seed: of the draws.
        replicates: R.
    """
    rng = np.random.default_rng(seed)
    sides = [side for unit in units for side in (unit.first, unit.second)]
    scored = [fold for side in sides for fold in side.scored]
    partners = [found for side in sides for found in side.partners]
    of_side = np.repeat(np.arange(len(sides)), [len(side.scored) for side in sides])
    point = _means(task, [compute(task, fold, np.ones((1, len(fold.label)))) for fold in scored], of_side)
    drawn: list[dict[str, np.ndarray]] = []
    for count in block_sizes(replicates):
        draws = draw(rng, scored, partners, count)
        found = [compute_drawn(task, fold, own) for fold, own in zip(scored, draws, strict=True)]
        drawn.append(_means(task, found, of_side))
    return {
        name: _difference(point[name][:, 0], np.concatenate([block[name] for block in drawn], axis=1))
        for name in METRICS[task]
    }


def _means(task: Task, folds: Sequence[dict[str, np.ndarray]], of_side: np.ndarray) -> dict[str, np.ndarray]:
    """Metric → (2, R): mean over seeds of the mean over `folds`, of the first and of the second model."""
    found = {}
    for name in METRICS[task]:
        values = np.stack([fold[name] for fold in folds])
        of_sides = np.stack([_defined_mean(values[of_side == side]) for side in range(int(of_side.max()) + 1)])
        found[name] = np.stack([_defined_mean(of_sides[0::2]), _defined_mean(of_sides[1::2])])
    return found


def _defined_mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis, of what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    counts = defined.sum(axis=0)
    mean: np.ndarray = np.where(counts > 0, np.where(defined, values, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)
    return mean


def _difference(point: np.ndarray, replicates: np.ndarray) -> Difference:
    """Of the two models' points (2,) and replicates (2, R)."""
    first, second = (float(value) if np.isfinite(value) else None for value in point)
    if first is None or second is None:
        return Difference(first, second, None, None, None)
    drawn = replicates[1] - replicates[0]
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Difference(first, second, second - first, None, None)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(
        first, second, second - first, (float(low), float(high)), min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    )


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> PairTest:
    """McNemar's exact test (Psychometrika 1947;12:153): the discordant pairs against a fair coin.

    With several seeds a pair counts for the model that is right about it in more of them, so that a pair counts once
    (a sign test on pairs); with one seed that is McNemar's.

    Args:
        first_right: (P,) in how many seeds the first model is right.
        second_right: (P,) the same of the second.
    """
    from scipy import stats

    first, second = int((first_right > second_right).sum()), int((second_right > first_right).sum())
    p = float(stats.binomtest(first, first + second, 0.5).pvalue) if first + second else 1.0
    return PairTest("McNemar, exact", len(first_right), first, second, p)


def wilcoxon(first_error: np.ndarray, second_error: np.ndarray) -> PairTest:
    """Wilcoxon's signed-rank test on absolute errors (P,), means over seeds; pairs with equal errors are left out."""
    from scipy import stats

    difference = second_error - first_error
    p = float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0
    return PairTest(
        "Wilcoxon signed-rank", len(difference), int((difference > 0).sum()), int((difference < 0).sum()), p
    )
