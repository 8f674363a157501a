"""Splits that the pairs table names: folds of a column, one fixed split, a transfer.

Ids do not decide whether two pairs are the same: RPI1460 has 1,460 protein ids over 635 sequences.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from crossllm.cache.errors import InputError, printable
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.splits.folds import Folds

NO_FOLD = ("", "-", ".", "?", "na", "n/a", "#n/a", "<na>", "nan", "none", "null")
"""Values of a fold column, in lower case, of pairs that the split leaves out."""
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


def in_a_fold(dataset: Dataset, column: str) -> list[int]:
    """The pairs whose fold is named: not empty, '-', NA or the like, by which tables say 'in none'."""
    if column not in dataset.extra:
        held = ", ".join(dataset.extra) or "none"
        raise InputError(f"--fold-column: no column '{printable(column)}' in pairs.tsv; further columns there: {held}")
    return [n for n, value in enumerate(dataset.extra[column]) if not is_no_fold(value)]


def is_no_fold(value: str) -> bool:
    """Whether a cell says 'in no fold'."""
    return value.strip().lower() in NO_FOLD


def given_folds(dataset: Dataset, column: str) -> Folds:
    """The folds of a column of the pairs table, whose every pair must be in one (see `in_a_fold`)."""
    return folds_of_values(dataset, dataset.extra[column], f"--fold-column {printable(column)}")


def folds_of_values(dataset: Dataset, cells: list[str], where: str) -> Folds:
    """The folds that a cell for each pair names.

    The words train, valid and test are one fixed split, not three folds that are tested in turn.
    """
    values = [_WHOLE.sub(r"\1", value.strip()) for value in cells]
    if any(value.lower() in PARTS for value in values):
        return _fixed_split(dataset, where, values)
    if like := sorted({value for value in values if _LIKE_PARTS.fullmatch(value.lower())}):
        raise InputError(
            f"{where}: '{printable(like[0])}' reads like a part of one split and no fold; "
            "write train, valid and test for a fixed split, or name folds otherwise"
        )
    names = sorted(set(values), key=lambda name: (int(name) if name.isascii() and name.isdigit() else math.inf, name))
    if not 2 <= len(names) <= 100:
        raise InputError(f"{where}: {len(names)} distinct values; 2 to 100 folds are expected")
    fold = np.array([names.index(value) for value in values])
    groups = dataset.sequence_pairs()
    folds_of_group: dict[int, set[int]] = {}
    for group, number in zip(groups.tolist(), fold.tolist(), strict=True):
        folds_of_group.setdefault(group, set()).add(number)
    shared = sum(len(folds_of_group[group]) > 1 for group in groups.tolist())
    return Folds(names, fold, shared)


def _fixed_split(dataset: Dataset, where: str, values: list[str]) -> Folds:
    """One fold, whose training, validation and test part a column names."""
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


class On(NamedTuple):
    """COLUMN=VALUE[,VALUE …] of `--train-on` and `--test-on`."""

    flag: str
    column: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, flag: str, text: str, dataset: Dataset) -> On:
        """Checked against the table.

        Raises:
            InputError: it is not of this form, or no pair has the column or a value.
        """
        column, equals, values = (part.strip() for part in text.partition("="))
        asked = tuple(value.strip() for value in values.split(","))
        if not equals or not column or not all(asked):
            raise InputError(f"{flag} '{printable(text)}': is not COLUMN=VALUE or COLUMN=VALUE,VALUE; e.g. species=mtr")
        if column not in dataset.extra:
            held = ", ".join(dataset.extra) or "none"
            raise InputError(f"{flag}: no column '{printable(column)}' in pairs.tsv; further columns there: {held}")
        found = set(dataset.extra[column])
        if missing := [value for value in asked if value not in found]:
            some = ", ".join(sorted(found)[:8])
            raise InputError(
                f"{flag} {printable(column)}={printable(missing[0])}: no pair has this value; values there: "
                f"{printable(some, 150)}"
            )
        return cls(flag, column, asked)

    def of(self, dataset: Dataset) -> np.ndarray:
        """(P,) whether a pair has one of the values."""
        return np.isin(np.array(dataset.extra[self.column], object).astype(str), self.values)


def transferred(dataset: Dataset, train_on: str, test_on: str) -> tuple[np.ndarray, np.ndarray]:
    """(P,) which pairs a transfer trains on, and which it tests on.

    Raises:
        InputError: a flag is missing or wrong, or a pair is on both sides.
    """
    for flag, text in (("--train-on", train_on), ("--test-on", test_on)):
        if not text:
            raise InputError(f"--split transfer: {flag} is missing; name the pairs, e.g. {flag} species=mtr")
    train = On.parse("--train-on", train_on, dataset).of(dataset)
    test = On.parse("--test-on", test_on, dataset).of(dataset)
    if both := int((train & test).sum()):
        raise InputError(
            f"--train-on {printable(train_on)} and --test-on {printable(test_on)}: {both} pairs are of both; name "
            "values that no pair shares"
        )
    return train, test


def transfer_folds(dataset: Dataset, train_on: str, test_on: str) -> Folds:
    """One fold: fitted and chosen on the pairs of one value, scored once on those of another."""
    _, test = transferred(dataset, train_on, test_on)
    groups = dataset.sequence_pairs()
    elsewhere = np.isin(groups, groups[~test]) & test
    parts = np.where(test, "test", "train")
    return Folds(["test"], np.where(test, 0, -1), int(elsewhere.sum()), parts)
