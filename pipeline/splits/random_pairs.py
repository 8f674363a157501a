"""Random folds of distinct sequence pairs: the partners of a tested pair may well stand in others (C1)."""

from __future__ import annotations

import numpy as np

from crossllm.cache.errors import InputError
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.splits.folds import Folds
from crossllm.pipeline.splits.parts import MIN_GROUPS, classes_of


def random_folds(dataset: Dataset, count: int, seed: int) -> Folds:
    """Distinct sequence pairs shuffled into `count` folds, stratified by class."""
    from sklearn.model_selection import KFold, StratifiedKFold

    groups = dataset.sequence_pairs()
    _, first = np.unique(groups, return_index=True)
    classes = classes_of(dataset, first)
    one_class = dataset.task == "classification" and len(set(classes)) < 2
    if count < 2 or one_class or np.bincount(classes).min() < count or len(first) < count + MIN_GROUPS:
        positive = f", {int(dataset.labels[first].sum())} of them positive" if dataset.task == "classification" else ""
        raise InputError(
            f"--folds {count}: {len(first)} distinct sequence pairs{positive}; 2 or more folds with at least one pair "
            f"of each label, and {MIN_GROUPS} pairs more than folds, are needed"
            + ("; `crossllm data negatives` draws negatives" if one_class and dataset.labels.all() else "")
        )
    fold = np.empty(len(first), np.int64)
    kind = StratifiedKFold if dataset.task == "classification" else KFold
    cutter = kind(count, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(cutter.split(first, classes)):
        fold[test] = number
    return Folds([str(n) for n in range(count)], fold[groups], 0)
