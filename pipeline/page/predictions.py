"""`predictions.tsv` and `history.csv` of a run, as columns.

Shapes: P tested pairs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.errors import CacheCorrupt, one_line
from crossllm.cache.files.plain_file import read_bytes
from crossllm.pipeline.evaluation.metrics import Scored

_MAX_FILE = 4 << 30


class Tested(NamedTuple):
    """The test predictions of the model or a baseline."""

    ids: tuple[int, int]
    """Distinct ids of A and of B."""
    fold: np.ndarray
    """(P,) name of the fold, as text."""
    label: np.ndarray
    """(P,) 0 or 1, or affinities."""
    score: np.ndarray
    predicted: np.ndarray
    further: dict[str, np.ndarray]
    """`probability`, or `low` and `high` (P,), where the table has them."""

    def folds(self, names: list[str]) -> list[Scored]:
        """The predictions of each fold that has any, in the order of the names."""
        chosen = (self.fold == name for name in names)
        return [Scored(self.label[one], self.score[one], self.predicted[one]) for one in chosen if one.any()]


class Epoch(NamedTuple):
    """One line of the history of a fold."""

    epoch: int
    train_loss: float
    validation_loss: float


def read_predictions(path: Path) -> Tested:
    """A table of predictions.

    Raises:
        CacheCorrupt: it is missing, lacks a column, or has no number where one is expected.
    """
    numbers: dict[str, list[float]] = {"label": [], "score": [], "predicted": []}
    folds: list[str] = []
    ids: tuple[set[str], set[str]] = set(), set()
    for number, row in enumerate(_rows(path, "\t"), 2):
        if number == 2:
            numbers |= {name: [] for name in ("probability", "low", "high") if name in row}
        try:
            for name, column in numbers.items():
                column.append(_finite(row[name], infinite=name in ("low", "high")))
            folds.append(str(row["fold"]))
            ids[0].add(row["a_id"])
            ids[1].add(row["b_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise CacheCorrupt(f"{path}:{number}: {one_line(error)}; no table of predictions, train again") from None
    if not folds:
        raise CacheCorrupt(f"{path}: no predictions in it; train again")
    label, score, predicted = (np.array(numbers.pop(name)) for name in ("label", "score", "predicted"))
    further = {name: np.array(column) for name, column in numbers.items()}
    return Tested((len(ids[0]), len(ids[1])), np.array(folds), label, score, predicted, further)


def read_history(path: Path) -> dict[str, list[Epoch]]:
    """Fold → its epochs; empty where a run of an early version has no such file.

    Raises:
        CacheCorrupt: a line is no line of numbers.
    """
    if not path.exists():
        return {}
    found: dict[str, list[Epoch]] = {}
    for number, row in enumerate(_rows(path, ","), 2):
        try:
            losses = (_finite(row["train_loss"]), _finite(row["validation_loss"]))
            found.setdefault(str(row["fold"]), []).append(Epoch(int(row["epoch"]), *losses))
        except (KeyError, TypeError, ValueError) as error:
            raise CacheCorrupt(f"{path}:{number}: {one_line(error)}; no history of a run, train again") from None
    return found


def _finite(text: str, *, infinite: bool = False) -> float:
    value = float(text)
    if math.isnan(value) or (math.isinf(value) and not infinite):
        raise ValueError(f"{text} where a number is expected")
    return value


def _rows(path: Path, delimiter: str) -> Iterator[dict[str, str]]:
    try:
        text = read_bytes(path, _MAX_FILE).decode()
    except FileNotFoundError:
        raise CacheCorrupt(f"{path}: missing, though its run is finished; run it again with --resume") from None
    except UnicodeDecodeError as error:
        raise CacheCorrupt(f"{path}: {one_line(error)}; train again") from None
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error as error:
        raise CacheCorrupt(f"{path}: {one_line(error)}; train again") from None
