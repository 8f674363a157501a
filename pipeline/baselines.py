"""Baselines that see no sequence content, fitted on the same training folds as the model.

If ID-only is good, the benchmark gives its answer away through who stands in it how often (Bernett et al. 2024,
PMC10939362): the model's number must be read beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from pipeline.dataset import Dataset
from pipeline.metrics import Scored
from pipeline.splits import Parts


def id_only(dataset: Dataset, parts: Parts, *, by_sequence: bool) -> Scored:
    """Logistic regression on how often each partner was positive and negative in the training fold.

    Four counts a pair; on the training rows without the row itself (leave-one-out), else a row would see its label.
    The training fold is all of it, validation part included: nothing is chosen.

    Args:
        dataset: the pairs.
        parts: one fold.
        by_sequence: count by distinct sequence (`id_only_sequence`) instead of by id.
    """
    names: tuple[Sequence[Hashable], Sequence[Hashable]] = (
        (dataset.a_keys, dataset.b_keys) if by_sequence else (dataset.a_ids, dataset.b_ids)
    )
    fitted = np.concatenate([parts.train, parts.validation])
    label = dataset.labels.astype(int)
    features = np.concatenate([_counts(side, label, fitted) for side in names], axis=1)
    classifier = LogisticRegression(max_iter=1000).fit(features[fitted], label[fitted])
    score = classifier.predict_proba(features[parts.test])[:, 1]
    return Scored(label[parts.test], score, (score >= 0.5).astype(int))


def _counts(side: Sequence[Hashable], label: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(P, 2) log(1 + n), n the positives and negatives of the partner among the fitted pairs but this pair.

    The logarithm, because raw counts let the few entities with hundreds of pairs drown the rest: by sequence on
    RPI1460's given folds, AUROC 0.74 with it, 0.70 without.
    """
    numbers: dict[Hashable, int] = {}
    entity = np.array([numbers.setdefault(name, len(numbers)) for name in side])
    totals = np.zeros((len(numbers), 2))
    np.add.at(totals, (entity[fitted], 1 - label[fitted]), 1)
    counts = totals[entity]
    counts[fitted, 1 - label[fitted]] -= 1
    logarithms: np.ndarray = np.log1p(counts)
    return logarithms
