"""Baselines that see no sequence content, fitted on the same training folds as the model.

If they are good, the benchmark gives its answer away through who stands in it how often and how high (Bernett et al.
2024, PMC10939362): the model's number must be read beside them.

All are fitted on the whole training fold, validation part included: nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.splits.parts import Parts


def id_only(dataset: Dataset, parts: Parts, *, by_sequence: bool) -> Scored:
    """What the training fold tells of each partner's name alone.

    Classification: logistic regression on how often each partner was positive and negative.  Regression: linear
    regression on each partner's mean affinity, shrunk towards that of all pairs, and its number of pairs.  On the
    training rows both without the row itself (leave-one-out), else a row would see its label.

    Args:
        dataset: the pairs.
        parts: one fold.
        by_sequence: count by distinct sequence (`id_only_sequence`) instead of by id.
    """
    fitted = np.concatenate([parts.train, parts.validation])
    sides = dataset.numbers(by_sequence=by_sequence)
    if dataset.task == "classification":
        label = dataset.labels.astype(int)
        features = np.concatenate([_counts(*tables, label, fitted) for tables in _tables(dataset, sides)], axis=1)
        classifier = LogisticRegression(max_iter=1000).fit(features[fitted], label[fitted])
        score = classifier.predict_proba(features[parts.test])[:, 1]
        return Scored(label[parts.test], score, (score >= 0.5).astype(int))
    features = np.concatenate([_means(*tables, dataset.labels, fitted) for tables in _tables(dataset, sides)], axis=1)
    line = LinearRegression().fit(features[fitted], dataset.labels[fitted])
    return _affinities(dataset, parts, line.predict(features[parts.test]))


def additive(dataset: Dataset, parts: Parts) -> Scored:
    """Affinity = mean + what partner A adds + what partner B adds, by distinct sequence; nothing for an unseen partner.

    Fitted by ridge regression on the two indicators (penalty 1 on each partner's share, so that a partner measured
    once moves half way).
    """
    fitted = np.concatenate([parts.train, parts.validation])
    pairs = np.arange(len(dataset.labels))
    sides = dataset.numbers()
    ones, width = np.ones(len(pairs)), max(side.max() for side in sides) + 1
    of_side = [sparse.csr_matrix((ones, (pairs, side)), shape=(len(pairs), width)) for side in sides]
    # A partner that may stand on either side adds the same on both.
    indicators = of_side[0] + of_side[1] if dataset.one_modality else sparse.hstack(of_side).tocsr()
    line = Ridge(alpha=1.0, solver="sparse_cg", tol=1e-10).fit(indicators[fitted], dataset.labels[fitted])
    return _affinities(dataset, parts, line.predict(indicators[parts.test]))


BASELINES: dict[Task, dict[str, Callable[[Dataset, Parts], Scored]]] = {
    "classification": {
        "id_only": lambda dataset, parts: id_only(dataset, parts, by_sequence=False),
        "id_only_sequence": lambda dataset, parts: id_only(dataset, parts, by_sequence=True),
    },
    "regression": {
        "additive": additive,
        "id_only": lambda dataset, parts: id_only(dataset, parts, by_sequence=False),
        "id_only_sequence": lambda dataset, parts: id_only(dataset, parts, by_sequence=True),
    },
}
"""Task → name in `metrics.json` → the baseline, fitted and scored on each fold beside the model."""


def _affinities(dataset: Dataset, parts: Parts, score: np.ndarray) -> Scored:
    return Scored(dataset.labels[parts.test], score, score)


def _tables(dataset: Dataset, sides: Sequence[np.ndarray]) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """For each side: its partners, and the columns of partners in which they are to be looked up."""
    return [(side, [*sides] if dataset.one_modality else [side]) for side in sides]


def _sums(entity: np.ndarray, columns: Sequence[np.ndarray], values: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P,) sum of `values` over the fitted pairs in which each pair's partner stands, but this pair itself."""
    totals = np.zeros(max(column.max() for column in (entity, *columns)) + 1)
    for column in columns:
        np.add.at(totals, column[fitted], values[fitted])
    found: np.ndarray = totals[entity]
    for column in columns:
        found[fitted] -= np.where(column[fitted] == entity[fitted], values[fitted], 0)
    return found


def _counts(entity: np.ndarray, columns: Sequence[np.ndarray], label: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P, 2) log(1 + n), n the positives and negatives of the partner among the other fitted pairs.

    The logarithm, because raw counts let the few entities with hundreds of pairs drown the rest: by sequence on
    RPI1460's given folds, AUROC 0.74 with it, 0.70 without.
    """
    counts = [_sums(entity, columns, (label == value).astype(float), fitted) for value in (1, 0)]
    logarithms: np.ndarray = np.log1p(np.stack(counts, axis=1))
    return logarithms


def _means(entity: np.ndarray, columns: Sequence[np.ndarray], label: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P, 2) sum of the partner's deviations from the mean ÷ (n + 1), and log(1 + n), over the other fitted pairs."""
    total = _sums(entity, columns, label - label[fitted].mean(), fitted)
    count = _sums(entity, columns, np.ones(len(label)), fitted)
    return np.stack([total / (count + 1), np.log1p(count)], axis=1)
