"""Baselines that see no sequence content, fitted on the same training folds as the model.

If they are good, the benchmark gives its answer away through who stands in it how often and how high (Bernett et al.
2024, PMC10939362): the model's number must be read beside them.

All are fitted on the whole training fold, validation part included: nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from pipeline.dataset import Dataset
from pipeline.metrics import Scored
from pipeline.pairs import Task
from pipeline.splits import Parts


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
    sides = _numbers(dataset, by_sequence)
    if dataset.task == "classification":
        label = dataset.labels.astype(int)
        features = np.concatenate([_counts(side, label, fitted) for side in sides], axis=1)
        classifier = LogisticRegression(max_iter=1000).fit(features[fitted], label[fitted])
        score = classifier.predict_proba(features[parts.test])[:, 1]
        return Scored(label[parts.test], score, (score >= 0.5).astype(int))
    features = np.concatenate([_means(side, dataset.labels, fitted) for side in sides], axis=1)
    line = LinearRegression().fit(features[fitted], dataset.labels[fitted])
    return _affinities(dataset, parts, line.predict(features[parts.test]))


def additive(dataset: Dataset, parts: Parts) -> Scored:
    """Affinity = mean + what partner A adds + what partner B adds, by distinct sequence; nothing for an unseen partner.

    Fitted by ridge regression on the two indicators (penalty 1 on each partner's share, so that a partner measured
    once moves half way).
    """
    fitted = np.concatenate([parts.train, parts.validation])
    pairs = np.arange(len(dataset.labels))
    sides = _numbers(dataset, by_sequence=True)
    indicators = sparse.hstack([sparse.csr_matrix((np.ones(len(pairs)), (pairs, side))) for side in sides]).tocsr()
    line = Ridge(alpha=1.0).fit(indicators[fitted], dataset.labels[fitted])
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


def _numbers(dataset: Dataset, by_sequence: bool) -> list[np.ndarray]:
    """(P,) number of each pair's partner, for both sides."""
    names: tuple[Sequence[Hashable], Sequence[Hashable]] = (
        (dataset.a_keys, dataset.b_keys) if by_sequence else (dataset.a_ids, dataset.b_ids)
    )
    found = []
    for side in names:
        numbers: dict[Hashable, int] = {}
        found.append(np.array([numbers.setdefault(name, len(numbers)) for name in side]))
    return found


def _counts(entity: np.ndarray, label: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P, 2) log(1 + n), n the positives and negatives of the partner among the fitted pairs but this pair.

    The logarithm, because raw counts let the few entities with hundreds of pairs drown the rest: by sequence on
    RPI1460's given folds, AUROC 0.74 with it, 0.70 without.
    """
    totals = np.zeros((entity.max() + 1, 2))
    np.add.at(totals, (entity[fitted], 1 - label[fitted]), 1)
    counts = totals[entity]
    counts[fitted, 1 - label[fitted]] -= 1
    logarithms: np.ndarray = np.log1p(counts)
    return logarithms


def _means(entity: np.ndarray, label: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P, 2) sum of the partner's deviations from the mean ÷ (n + 1), and log(1 + n), over the other fitted pairs."""
    deviation = label - label[fitted].mean()
    count = np.bincount(entity[fitted], minlength=entity.max() + 1).astype(float)[entity]
    total = np.bincount(entity[fitted], weights=deviation[fitted], minlength=entity.max() + 1)[entity]
    count[fitted] -= 1
    total[fitted] -= deviation[fitted]
    return np.stack([total / (count + 1), np.log1p(count)], axis=1)
