"""Folds and validation parts, cut by distinct sequence pairs: the same two sequences never stand on both sides.

Ids do not decide: RPI1460 has 1,460 protein ids over 635 sequences.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from crossllm.cache.errors import InputError, printable
from crossllm.pipeline.data.dataset import Dataset

NO_FOLD = ("", "-", ".", "?", "na", "n/a", "#n/a", "<na>", "nan", "none", "null")
"""Values of a fold column, in lower case, of pairs that the split leaves out."""
MIN_GROUPS = 8
"""Fewest distinct sequence pairs a training part may have: a validation part is cut from it."""


PARTS = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Values of a fold column, in lower case, that name the parts of one fixed split and no folds → the part."""
_LIKE_PARTS = re.compile(
    r"(.*[^a-z])?(train|training|trn|test|testing|tst|val|valid|validation|holdout|held.?out|dev)([^a-z].*)?|true|false"
)
"""Names that read like parts, in lower case: tested in turn as folds, the model would be scored on what it learnt."""
_WHOLE = re.compile(r"([0-9]+)\.0+")
"""A number of a fold as a spreadsheet or pandas writes it where some cells are empty."""


class Folds(NamedTuple):
    """Which fold each pair is tested in."""

    names: list[str]
    """Fold → its name, in order."""
    of_pair: np.ndarray
    """(P,) number of the fold in which each pair is tested; −1 for none."""
    shared: int
    """Tested pairs whose exact sequence pair also stands elsewhere (only a given column can have any)."""
    parts: np.ndarray | None = None
    """(P,) train, valid or test, where the split is fixed: one fold, `test`."""

    def pair_names(self) -> list[str]:
        """Of each pair: its fold, or its part of a fixed split; as in `splits.tsv`."""
        if self.parts is not None:
            found: list[str] = self.parts.tolist()
            return found
        return [self.names[fold] for fold in self.of_pair.tolist()]

    def digest(self, dataset: Dataset) -> str:
        """SHA-256 of `a_id b_id fold` lines: the identity of the split."""
        names = self.pair_names()
        lines = (f"{a}\t{b}\t{fold}\n" for a, b, fold in zip(dataset.a_ids, dataset.b_ids, names, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Parts(NamedTuple):
    """One fold's pairs: fitted on, chosen on, scored once."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def random_folds(dataset: Dataset, count: int, seed: int) -> Folds:
    """Distinct sequence pairs shuffled into `count` folds, stratified by class."""
    groups = dataset.sequence_pairs()
    _, first = np.unique(groups, return_index=True)
    classes = _classes(dataset, first)
    one_class = dataset.task == "classification" and len(set(classes)) < 2
    if count < 2 or one_class or np.bincount(classes).min() < count or len(first) < count + MIN_GROUPS:
        positive = f", {int(dataset.labels[first].sum())} of them positive" if dataset.task == "classification" else ""
        raise InputError(
            f"--folds {count}: {len(first)} distinct sequence pairs{positive}; 2 or more folds with at least one pair "
            f"of each label, and {MIN_GROUPS} pairs more than folds, are needed"
        )
    fold = np.empty(len(first), np.int64)
    kind = StratifiedKFold if dataset.task == "classification" else KFold
    cutter = kind(count, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(cutter.split(first, classes)):
        fold[test] = number
    return Folds([str(n) for n in range(count)], fold[groups], 0)


def _classes(dataset: Dataset, pairs: np.ndarray) -> np.ndarray:
    """What a cut is stratified by: the class of each pair; in a regression all are alike."""
    if dataset.task == "classification":
        classes: np.ndarray = dataset.labels[pairs].astype(int)
        return classes
    return np.zeros(len(pairs), np.int64)


def in_a_fold(dataset: Dataset, column: str) -> list[int]:
    """The pairs whose fold is named: not empty, '-', NA or the like, by which tables say 'in none'."""
    if column not in dataset.extra:
        held = ", ".join(dataset.extra) or "none"
        raise InputError(f"--fold-column: no column '{printable(column)}' in pairs.tsv; further columns there: {held}")
    return [n for n, value in enumerate(dataset.extra[column]) if value.strip().lower() not in NO_FOLD]


def given_folds(dataset: Dataset, column: str) -> Folds:
    """The folds of a column of the pairs table, whose every pair must be in one (see `in_a_fold`).

    A column of the words train, valid and test is one fixed split, not three folds that are tested in turn.
    """
    values = [_WHOLE.sub(r"\1", value.strip()) for value in dataset.extra[column]]
    if any(value.lower() in PARTS for value in values):
        return _fixed_split(dataset, column, values)
    if like := sorted({value for value in values if _LIKE_PARTS.fullmatch(value.lower())}):
        raise InputError(
            f"--fold-column {printable(column)}: '{printable(like[0])}' reads like a part of one split and no fold; "
            "write train, valid and test for a fixed split, or name folds otherwise"
        )
    names = sorted(set(values), key=lambda name: (int(name) if name.isascii() and name.isdigit() else math.inf, name))
    if not 2 <= len(names) <= 100:
        raise InputError(
            f"--fold-column {printable(column)}: {len(names)} distinct values; 2 to 100 folds are expected"
        )
    fold = np.array([names.index(value) for value in values])
    groups = dataset.sequence_pairs()
    folds_of_group: dict[int, set[int]] = {}
    for group, number in zip(groups.tolist(), fold.tolist(), strict=True):
        folds_of_group.setdefault(group, set()).add(number)
    shared = sum(len(folds_of_group[group]) > 1 for group in groups.tolist())
    return Folds(names, fold, shared)


def _fixed_split(dataset: Dataset, column: str, values: list[str]) -> Folds:
    """One fold, whose training, validation and test part a column names."""
    where = f"--fold-column {printable(column)}"
    if others := sorted({value for value in values if value.lower() not in PARTS}):
        raise InputError(
            f"{where}: '{printable(others[0])}' beside train, valid and test; a column names either the parts of one "
            "split or folds"
        )
    parts = np.array([PARTS[value.lower()] for value in values])
    for part in ("train", "test"):
        if not (parts == part).any():
            raise InputError(f"{where}: no pair is '{part}'; one fixed split has train, test and, at best, valid")
    groups = dataset.sequence_pairs()
    elsewhere = np.isin(groups, groups[parts != "test"]) & (parts == "test")
    return Folds(["test"], np.where(parts == "test", 0, -1), int(elsewhere.sum()), parts)


def cut_parts(dataset: Dataset, folds: Folds, number: int, validation: float, seed: int) -> Parts:
    """Test fold `number`; the other folds cut again, by sequence pair, into a training and a validation part.

    A fixed split that names a validation part is taken as it is.
    """
    test = np.flatnonzero(folds.of_pair == number)
    rest = np.flatnonzero(folds.of_pair != number)
    if folds.parts is not None and (folds.parts == "valid").any():
        train = np.flatnonzero(folds.parts == "train")
        _refuse_too_few(dataset, train, "the part 'train'")
        return Parts(train, np.flatnonzero(folds.parts == "valid"), test)
    groups, first = np.unique(dataset.sequence_pairs()[rest], return_index=True)
    classes = _classes(dataset, rest[first])
    size = max(2, round(validation * len(groups)))
    _refuse_too_few(dataset, rest, f"fold {folds.names[number]}")
    _, held_out = train_test_split(groups, test_size=size, stratify=classes, random_state=seed)
    chosen = np.isin(dataset.sequence_pairs()[rest], held_out)
    return Parts(rest[~chosen], rest[chosen], test)


def _refuse_too_few(dataset: Dataset, pairs: np.ndarray, where: str) -> None:
    """Raise `InputError` where these pairs, left to train on, are too few or of one class."""
    groups, first = np.unique(dataset.sequence_pairs()[pairs], return_index=True)
    classes = _classes(dataset, pairs[first])
    counts = np.bincount(classes)
    if len(groups) < MIN_GROUPS or counts.min() < 2 or (dataset.task == "classification" and len(counts) < 2):
        raise InputError(
            f"{where}: {len(groups)} distinct sequence pairs of {len(set(classes))} classes "
            f"are left to train on; at least {MIN_GROUPS}, and two of each class, are needed"
        )
