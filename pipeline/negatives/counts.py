"""What counts alone tell of a set of positives and negatives: who stands in it how often, and no sequence.

Shapes: P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Deviation(NamedTuple):
    """How far the negatives of an id in a part are from its positives there, × the ratio."""

    largest: int
    mean: float
    off: int
    """Ids and parts that are not exact."""
    total: int
    """Ids and parts there are."""


def auroc_of_counts(
    sides: tuple[np.ndarray, np.ndarray], label: np.ndarray, part: np.ndarray, ratio: int, *, one_modality: bool
) -> float:
    """Mean over parts of the AUROC of a score that knows the other parts' counts alone; ties count half.

    The score of a pair adds, over its two partners, log((positives + 1) / (negatives + ratio)): nothing where a partner
    is new or has `ratio` negatives for each positive.  Nothing is fitted, unlike in `id_only` and the leak report
    (`count_scores`): of exactly matched degrees this is 0.5 exactly, however small the set.

    Args:
        sides: (P,) number of each pair's partner, for both sides.
        label: (P,) 0 or 1.
        part: (P,) from 0.
        ratio: negatives for one positive.
        one_modality: whether both sides are of one numbering.
    """
    from sklearn.metrics import roc_auc_score

    score = np.zeros(len(label))
    for side in sides:
        columns = sides if one_modality else (side,)
        known = {}
        for value in (0, 1):
            counts = np.zeros((max(int(s.max()) for s in sides) + 1, int(part.max()) + 1))
            for column in columns:
                np.add.at(counts, (column[label == value], part[label == value]), 1)
            known[value] = counts[side].sum(1) - counts[side, part]
        score += np.log((known[1] + 1) / (known[0] + ratio))
    score = np.round(score, 9)  # ties are ties, whatever the last bit of a logarithm says
    areas = [roc_auc_score(label[inside], score[inside]) for inside in (part == n for n in range(part.max() + 1))
             if len(np.unique(label[inside])) == 2]  # fmt: skip
    return float(np.mean(areas))


def deviation_of(ids: tuple[np.ndarray, np.ndarray], label: np.ndarray, part: np.ndarray, ratio: int) -> Deviation:
    """Over all ids of both sides and the parts in which they are positive."""
    apart = []
    for side in ids:
        counts = np.zeros((2, int(side.max()) + 1, int(part.max()) + 1), np.int64)
        np.add.at(counts, (label, side, part), 1)
        held = counts[1] > 0
        apart.append(np.abs(counts[0] - ratio * counts[1])[held])
    found = np.concatenate(apart)
    return Deviation(int(found.max()), float(found.mean()), int((found > 0).sum()), len(found))
