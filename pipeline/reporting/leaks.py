"""What a split lets through from training to test: who was seen, how near the nearest is, what counts alone tell.

`leaks.json` of a run, and `crossllm data leaks`.  Training means all that a fold's model was fitted or chosen on.

Shapes: P pairs, S distinct sequences of a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.evaluation.counts import count_scores
from crossllm.pipeline.evaluation.metrics import Scored, compute
from crossllm.pipeline.similarity.similarity import Similarity
from crossllm.pipeline.splits.choosing import clusters_of
from crossllm.pipeline.splits.parts import Parts

BINS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Least identity of each bin of the histograms; what is below all is in one more, the last."""
CLASSES = ("C1", "C2a", "C2b", "C3")
"""Both partners seen, A unseen, B unseen, both unseen (Park & Marcotte, Nat Methods 2012;9:1134; Pahikkala's S1–S4)."""


class Seen(NamedTuple):
    """Of the tested pairs of one fold."""

    a: np.ndarray
    """(P,) whether A stands in a training pair."""
    b: np.ndarray
    pair: np.ndarray
    """(P,) whether the two stand in one training pair."""

    def shares(self) -> dict[str, float]:
        """Class → share of the pairs."""
        kinds = (self.a & self.b, ~self.a & self.b, self.a & ~self.b, ~self.a & ~self.b)
        return {name: float(kind.mean()) for name, kind in zip(CLASSES, kinds, strict=True)}


def find_leaks(
    dataset: Dataset, names: Sequence[str], parts: Sequence[Parts], similarities: tuple[Similarity, Similarity]
) -> dict[str, Any]:
    """The contents of `leaks.json`.

    Args:
        dataset: the pairs.
        names: of the folds.
        parts: of each fold.
        similarities: of the sequences of A and of B.
    """
    sequences, clusters = dataset.numbers(), clusters_of(dataset, similarities)
    folds = [_fold(dataset, part, sequences, clusters, similarities) for part in parts]
    tested = [len(part.test) for part in parts]
    return {
        "modalities": [dataset.modality_a, dataset.modality_b],
        "task": dataset.task,
        "tested": sum(tested),
        "rules": [similarity.rule.in_words() for similarity in similarities],
        "methods": [similarity.method for similarity in similarities],
        "clusters": [int(similarity.component.max()) + 1 for similarity in similarities],
        **{name: _mean([fold[name] for fold in folds], tested) for name in folds[0]},
        "dataset": _of_dataset(dataset),
        "folds": dict(zip(names, folds, strict=True)),
    }


def _fold(
    dataset: Dataset,
    part: Parts,
    sequences: tuple[np.ndarray, np.ndarray],
    clusters: tuple[np.ndarray, np.ndarray],
    similarities: tuple[Similarity, Similarity],
) -> dict[str, Any]:
    """Of one fold: shares of its test pairs, and what counts alone tell of them."""
    trained = np.concatenate([part.train, part.validation])
    by_sequence, by_cluster = (_seen(dataset, part.test, trained, *sides) for sides in (sequences, clusters))
    a, b = (s.numbers(keys) for s, keys in zip(similarities, (dataset.a_keys, dataset.b_keys), strict=True))
    known_a, known_b = a[trained], b[trained]
    if dataset.one_modality:
        known_a = known_b = np.concatenate([known_a, known_b])
    return {
        "by_sequence": by_sequence.shares(),
        "by_cluster": by_cluster.shares(),
        "same_sequence_pair": float(by_sequence.pair.mean()),
        "same_cluster_pair": float(by_cluster.pair.mean()),
        "nearest_a": histogram(nearest(similarities[0], a[part.test], known_a)),
        "nearest_b": histogram(nearest(similarities[1], b[part.test], known_b)),
        "counts": {
            "by_id": _counts_alone(dataset, part, by_sequence=False),
            "by_sequence": _counts_alone(dataset, part, by_sequence=True),
        },
    }


def _seen(dataset: Dataset, test: np.ndarray, trained: np.ndarray, a: np.ndarray, b: np.ndarray) -> Seen:
    """Whether the partners of tested pairs, numbered, stand in training."""
    known_a, known_b = a[trained], b[trained]
    low, high = (np.minimum(a, b), np.maximum(a, b)) if dataset.one_modality else (a, b)
    pair = low.astype(np.int64) * (int(high.max()) + 1) + high
    if dataset.one_modality:
        known_a = known_b = np.concatenate([known_a, known_b])
    return Seen(np.isin(a[test], known_a), np.isin(b[test], known_b), np.isin(pair[test], pair[trained]))


def nearest(similarity: Similarity, tested: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(P,) highest identity of each tested sequence to one of the known; 0 where none resembles it.

    Args:
        similarity: of S sequences.
        tested: (P,) number of a sequence for each pair.
        known: numbers of the sequences of the training pairs.
    """
    if len(known) == 0:
        return np.zeros(len(tested))
    distinct, place = np.unique(tested, return_inverse=True)
    best = similarity.identity[distinct][:, np.unique(known)].max(axis=1).toarray().ravel()
    found: np.ndarray = best[place]
    return found


def histogram(identity: np.ndarray) -> dict[str, float]:
    """Least identity of a bin → share of the pairs in it; `0` for those below all."""
    bounds = np.array([*BINS, 0.0])
    bins = np.argmax(identity[:, None] >= bounds[None, :] - 1e-6, axis=1)
    return {f"{bound:g}": float((bins == n).mean()) for n, bound in enumerate(bounds)}


def _counts_alone(dataset: Dataset, part: Parts, *, by_sequence: bool) -> float | None:
    """AUROC, or Spearman's correlation, of what the counts of each partner's training pairs tell."""
    fitted = np.concatenate([part.train, part.validation])
    sides, label = dataset.numbers(by_sequence=by_sequence), dataset.labels[part.test]
    score = count_scores(sides, dataset.labels, dataset.task, fitted, part.test, one_modality=dataset.one_modality)
    scored = Scored(label, score, score >= 0.5)
    name = "auroc" if dataset.task == "classification" else "spearman"
    found = float(compute(dataset.task, scored, np.ones((1, len(scored.label))))[name][0])
    return found if np.isfinite(found) else None


def _of_dataset(dataset: Dataset) -> dict[str, int]:
    """Pairs whose two sequences stand in other rows too, and of those, in rows of another label."""
    groups = dataset.sequence_pairs()
    size = np.bincount(groups)
    low, high = np.full(len(size), np.inf), np.full(len(size), -np.inf)
    np.minimum.at(low, groups, dataset.labels)
    np.maximum.at(high, groups, dataset.labels)
    return {"repeated": int((size[groups] > 1).sum()), "contradictory": int((low < high)[groups].sum())}


def _mean(values: list[Any], tested: list[int]) -> Any:
    """Over the folds, each as heavy as its tested pairs; of tables, entry by entry."""
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values], tested) for name in values[0]}
    known = [(value, count) for value, count in zip(values, tested, strict=True) if value is not None]
    return sum(v * n for v, n in known) / sum(n for _, n in known) if known else None
