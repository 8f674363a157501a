"""What the folds' models say of a pair, as one answer: score, interval, uncertainty, call.

Shapes: K folds' models, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossllm.pipeline.use.trained_run import TrainedRun

COLUMNS = ("score", "score_low", "score_high", "uncertainty", "predicted")


class Answers(NamedTuple):
    """Of P pairs."""

    score: np.ndarray
    """(P,) float64: the calibrated probability of label 1, or the affinity; the mean over the folds' models."""
    low: np.ndarray
    """(P,) lower end of its interval; see `answers`."""
    high: np.ndarray
    uncertainty: np.ndarray
    """(P,) sample standard deviation of that over the folds' models; NaN where there is one model alone."""
    predicted: np.ndarray
    """(P,) 0 or 1; in a regression the score itself."""

    def take(self, chosen: np.ndarray) -> Answers:
        """Those of some pairs."""
        return Answers(*(values[chosen] for values in self))


def answers(run: TrainedRun, raw: np.ndarray) -> Answers:
    """One answer a pair from `TrainedRun.score`'s (K, P).

    Classification: the interval goes from the lowest to the highest of the K probabilities.  A further model, trained
    as these were, falls within it in (K − 1) / (K + 1) of all cases; it says nothing of the label itself.  A pair is
    predicted 1 where more than half of the models put it at or above their threshold; at a tie, where the mean
    probability is at least ½.

    Regression: the mean of the K conformal intervals, that is, the mean affinity ± the mean half width.  The mean of
    the models is off by no more than they are on average, so it covers about what they cover each.

    Raises:
        InputError: a run of a version that kept no calibration or no interval.
    """
    if run.task == "regression":
        low, high = run.intervals(raw)
        score = raw.mean(axis=0)
        return Answers(score, low.mean(axis=0), high.mean(axis=0), _deviation(raw), score)
    probability = run.probability(raw)
    score = probability.mean(axis=0)
    votes = 2 * run.predicted(raw).sum(axis=0) - len(raw)
    predicted = np.where(votes == 0, score >= 0.5, votes > 0).astype(np.int64)
    return Answers(score, probability.min(axis=0), probability.max(axis=0), _deviation(probability), predicted)


def _deviation(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return np.full(values.shape[1], np.nan)
    found: np.ndarray = values.std(axis=0, ddof=1)
    return found
