"""What counts of pairs tell of a pair: who stands in the table how often and how high; no sequence is read.

If that is much, the benchmark gives its answer away (Bernett et al. 2024, PMC10939362).

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossllm.pipeline.data.labels import Task


def count_scores(
    sides: tuple[np.ndarray, np.ndarray], labels: np.ndarray, task: Task, fitted: np.ndarray, asked: np.ndarray, *,
    one_modality: bool,
) -> np.ndarray:  # fmt: skip
    """Scores of the pairs `asked` for by what the pairs `fitted` tell of each partner's name alone.

    Classification: logistic regression on how often each partner was positive and negative.  Regression: linear
    regression on each partner's mean affinity, shrunk towards that of all pairs, and its number of pairs.  On the
    fitted rows both without the row itself (leave-one-out), else a row would see its label.

    Args:
        sides: (P,) number of each pair's partner, for both sides (`Dataset.numbers`).
        labels: (P,) classes or affinities.
        task: which of them.
        fitted, asked: numbers of pairs.
        one_modality: whether a partner may stand on either side; then both are of one numbering.
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression

    tables = [(side, [*sides] if one_modality else [side]) for side in sides]
    if task == "classification":
        label = labels.astype(int)
        features = np.concatenate([_counts(*table, label, fitted) for table in tables], axis=1)
        classifier = LogisticRegression(max_iter=1000).fit(features[fitted], label[fitted])
        score: np.ndarray = classifier.predict_proba(features[asked])[:, 1]
        return score
    features = np.concatenate([_means(*table, labels, fitted) for table in tables], axis=1)
    affinity: np.ndarray = LinearRegression().fit(features[fitted], labels[fitted]).predict(features[asked])
    return affinity


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
