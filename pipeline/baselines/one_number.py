"""`one_number`: how far the length or the GC content of one partner alone gets, by one threshold or one line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossllm.pipeline.baselines.material import Material, Scores
from crossllm.pipeline.evaluation.classification import best_threshold, compute
from crossllm.pipeline.splits.parts import Parts


class Column(NamedTuple):
    """A column as a classifier."""

    score: np.ndarray
    """(P,) from 0 to 1, of all pairs."""
    threshold: float
    mcc: float
    """On the fitted pairs."""


def one_number(material: Material, parts: Parts, number: int) -> Scores:
    """The best single column of `Material.numbers`, chosen on the training and the validation pairs together.

    It has no validation part: so few choices (column, direction, threshold) fit no noise.  Classification: a pair's
    score is the share of the fitted pairs that lie below it (above it, where less means positive), and the threshold
    that of the highest MCC on the fitted pairs.  Regression: the line on the column of the highest correlation.
    """
    fitted = np.concatenate([parts.train, parts.validation])
    labels = material.dataset.labels
    if material.dataset.task == "regression":
        columns = [_fitted_line(values, labels, fitted) for values in material.numbers.values()]
        found = columns[int(np.argmax([np.abs(_correlation(c[fitted], labels[fitted])) for c in columns]))]
        return Scores(found[parts.test], None)
    best = max((of_column(values, labels, fitted) for values in material.numbers.values()), key=lambda c: c.mcc)
    return Scores(best.score[parts.test], best.threshold)


def of_column(values: np.ndarray, labels: np.ndarray, fitted: np.ndarray) -> Column:
    """What one column alone tells, in the direction and at the threshold of the highest MCC on the fitted pairs."""
    ranks, ones = _ranks(values, fitted), np.ones((1, len(fitted)))
    found = []
    for score in (ranks, 1 - ranks):
        threshold = best_threshold(labels[fitted], score[fitted])
        mcc = compute(labels[fitted], score[fitted], score[fitted] >= threshold, ones)["mcc"][0]
        found.append(Column(score, threshold, float(mcc)))
    return max(found, key=lambda column: column.mcc)


def _ranks(values: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P,) share of the fitted pairs below each value, half of its equals; straight lines between the fitted values.

    So a threshold half-way between two fitted scores is one half-way between their values.
    """
    distinct, counts = np.unique(values[fitted], return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / len(fitted)
    found: np.ndarray = np.interp(values, distinct, middle)
    return found


def _fitted_line(values: np.ndarray, labels: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P,) the least-squares line through the fitted pairs; their mean where the column is constant."""
    x, y = values[fitted] - values[fitted].mean(), labels[fitted] - labels[fitted].mean()
    slope = (x @ y) / (x @ x) if x.any() else 0.0
    found: np.ndarray = labels[fitted].mean() + slope * (values - values[fitted].mean())
    return found


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's; 0 where one is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else 0.0
