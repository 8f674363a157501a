"""One fold's pairs: a validation part is cut from what may be trained on, the same way as the test part was cut.

What chooses epoch and threshold then has seen no more than the test part will.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from crossllm.cache.errors import InputError
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.splits.folds import Cut, Folds

MIN_GROUPS = 8
"""Fewest distinct sequence pairs a training part may have: a validation part is cut from it."""
QUANTILES = 4
"""Parts of equal size into which affinities fall where a cut is to leave them alike everywhere."""


class Parts(NamedTuple):
    """One fold's pairs: fitted on, chosen on, scored once."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def classes_of(dataset: Dataset, pairs: np.ndarray) -> np.ndarray:
    """What a cut of random pairs is stratified by: the class of each pair; in a regression all are alike."""
    if dataset.task == "classification":
        classes: np.ndarray = dataset.labels[pairs].astype(int)
        return classes
    return np.zeros(len(pairs), np.int64)


def strata(dataset: Dataset) -> np.ndarray:
    """(P,) what a cut of whole groups is stratified by: the class, or the quarter in which an affinity lies."""
    if dataset.task == "classification":
        return classes_of(dataset, np.arange(len(dataset.labels)))
    edges = np.quantile(dataset.labels, np.linspace(0, 1, QUANTILES + 1)[1:-1])
    return np.searchsorted(edges, dataset.labels, side="right")


def held_out(groups: np.ndarray, of_pair: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """`count` times the places of some whole groups, which are all of them in the end, strata spread alike."""
    from sklearn.model_selection import StratifiedGroupKFold

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a rare class is in few groups
        yield from (
            held
            for _, held in StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(groups, of_pair, groups)
        )


def cut_parts(dataset: Dataset, folds: Folds, number: int, validation: float, seed: int) -> Parts:
    """Test fold `number`; what may be trained on cut again, into a training and a validation part.

    Random and given folds: by sequence pair.  A split by the partners: by groups of the side that is cut; where both
    are, of the one with more groups, as a cut of both would leave too few pairs.  A fixed split that names a
    validation part is taken as it is.

    Raises:
        InputError: too few pairs, or pairs of one class, are left to train or to choose on.
    """
    from sklearn.model_selection import train_test_split

    test = np.flatnonzero(folds.of_pair == number)
    rest = folds.trainable(number)
    if folds.parts is not None and (folds.parts == "valid").any():
        train = np.flatnonzero(folds.parts == "train")
        _refuse_too_few(dataset, train, "the part 'train'")
        return Parts(train, np.flatnonzero(folds.parts == "valid"), test)
    where = f"fold {folds.names[number]}"
    _refuse_too_few(dataset, rest, where)
    if folds.cut is not None:
        chosen = _of_groups(dataset, folds.cut, rest, validation, seed, where)
        _refuse_too_few(dataset, rest[~chosen], where)
        return Parts(rest[~chosen], rest[chosen], test)
    groups, first = np.unique(dataset.sequence_pairs()[rest], return_index=True)
    size = max(2, round(validation * len(groups)))
    _, validation_groups = train_test_split(
        groups, test_size=size, stratify=classes_of(dataset, rest[first]), random_state=seed
    )
    chosen = np.isin(dataset.sequence_pairs()[rest], validation_groups)
    return Parts(rest[~chosen], rest[chosen], test)


def _of_groups(dataset: Dataset, cut: Cut, rest: np.ndarray, validation: float, seed: int, where: str) -> np.ndarray:
    """Which of `rest` are held out to choose on: some `validation` of them, whole groups of one side."""
    sides = [(groups[rest], part[rest]) for groups, part in ((cut.a_group, cut.a_part), (cut.b_group, cut.b_part))]
    groups = max((g for g, part in sides if part.max() >= 0), key=lambda g: len(np.unique(g)))
    of_pair = strata(dataset)[rest]
    count = min(max(2, round(1 / validation)), len(np.unique(groups)), int(np.bincount(of_pair).max()))
    if count >= 2:
        for held in held_out(groups, of_pair, count, seed):
            chosen = np.isin(groups, groups[held])
            if cut.one_modality:
                chosen |= np.isin(sides[0][0], groups[held]) | np.isin(sides[1][0], groups[held])
            both = [len(np.unique(of_pair[part])) > 1 for part in (chosen, ~chosen)]
            if chosen.any() and not chosen.all() and (all(both) or dataset.task == "regression"):
                return chosen
    raise InputError(
        f"{where}: its training pairs have {len(np.unique(groups))} groups of sequences, of which none leaves both "
        "classes to train and to choose on; take fewer --folds or another --split"
    )


def _refuse_too_few(dataset: Dataset, pairs: np.ndarray, where: str) -> None:
    """Raise `InputError` where these pairs, left to train on, are too few or of one class."""
    groups, first = np.unique(dataset.sequence_pairs()[pairs], return_index=True)
    classes = classes_of(dataset, pairs[first])
    counts = np.bincount(classes, minlength=1)
    if len(groups) < MIN_GROUPS or counts.min() < 2 or (dataset.task == "classification" and len(counts) < 2):
        raise InputError(
            f"{where}: {len(groups)} distinct sequence pairs of {len(set(classes))} classes "
            f"are left to train on; at least {MIN_GROUPS}, and two of each class, are needed: add pairs, take more "
            "--folds where folds are drawn, or take another --split"
        )
