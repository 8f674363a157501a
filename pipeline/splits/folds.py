"""What a split is: which fold each pair is tested in, and which pairs may be trained on then.

Shapes: P pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from crossllm.pipeline.data.dataset import Dataset

NONE = "-"
"""Stands in `splits.tsv` for no fold, part or group."""


class Cut(NamedTuple):
    """A split by the partners: sequences, or clusters of them, lie in parts, and the pairs in a grid of blocks."""

    a_part: np.ndarray
    """(P,) part of each pair's first sequence; −1 where that side is not cut."""
    b_part: np.ndarray
    """(P,) part of its second sequence."""
    a_group: np.ndarray
    """(P,) group (sequence or cluster) that stays together."""
    b_group: np.ndarray
    blocks: list[tuple[int, int]]
    """Fold → the block that it tests: part of A, part of B; −1: any."""
    one_modality: bool
    """Whether a sequence may stand on either side: then parts and groups are of one numbering."""

    def tested(self, fold: int) -> np.ndarray:
        """(P,) whether a pair lies in the block of a fold."""
        i, j = self.blocks[fold]
        inside: np.ndarray = self._in(i, j)
        return inside | self._in(j, i) if self.one_modality and min(i, j) >= 0 else inside

    def unseen(self, fold: int) -> np.ndarray:
        """(P,) whether a pair has no partner of a part that the fold tests: what may be trained on."""
        i, j = self.blocks[fold]
        if self.one_modality:
            held = [part for part in (i, j) if part >= 0]
            return ~(np.isin(self.a_part, held) | np.isin(self.b_part, held))
        free: np.ndarray = np.ones(len(self.a_part), bool)
        if i >= 0:
            free &= self.a_part != i
        if j >= 0:
            free &= self.b_part != j
        return free

    def _in(self, i: int, j: int) -> np.ndarray:
        inside: np.ndarray = ((self.a_part == i) | (i < 0)) & ((self.b_part == j) | (j < 0))
        return inside


class Folds(NamedTuple):
    """Which fold each pair is tested in."""

    names: list[str]
    """Fold → its name, in order."""
    of_pair: np.ndarray
    """(P,) number of the fold in which each pair is tested; −1 for none."""
    shared: int
    """Tested pairs whose exact sequence pair also stands elsewhere (only a given or transferred split can have any)."""
    parts: np.ndarray | None = None
    """(P,) train, valid or test, where the split is fixed: one fold, `test`."""
    cut: Cut | None = None
    """Where the split is by the partners."""

    def trainable(self, fold: int) -> np.ndarray:
        """Numbers of the pairs that may be trained on when a fold is tested, its validation pairs among them."""
        if self.parts is not None:
            return np.flatnonzero(self.parts != "test")
        free = self.of_pair != fold if self.cut is None else self.cut.unseen(fold)
        return np.flatnonzero(free)

    def dropped(self, fold: int) -> int:
        """Pairs that are neither tested nor trained on: of their two partners one is held out and one is not."""
        return len(self.of_pair) - len(self.trainable(fold)) - int((self.of_pair == fold).sum())

    def pair_names(self) -> list[str]:
        """Of each pair: its fold, or its part of a fixed split; as in `splits.tsv`."""
        if self.parts is not None:
            found: list[str] = self.parts.tolist()
            return found
        return [self.names[fold] if fold >= 0 else NONE for fold in self.of_pair.tolist()]

    def table(self, dataset: Dataset) -> tuple[tuple[str, ...], Iterator[tuple[str, ...]]]:
        """Header and rows of `splits.tsv`: all that is needed to train on this split again."""
        header: tuple[str, ...] = ("a_id", "b_id", "fold")
        columns = [dataset.a_ids, dataset.b_ids, self.pair_names()]
        if self.cut is not None:
            header += ("a_part", "b_part", "a_group", "b_group")
            parts = (self.cut.a_part, self.cut.b_part, self.cut.a_group, self.cut.b_group)
            columns += [[str(n) if n >= 0 else NONE for n in values.tolist()] for values in parts]
        return header, zip(*columns, strict=True)

    def digest(self, dataset: Dataset) -> str:
        """SHA-256 of the lines of `splits.tsv` below its header: the identity of the split."""
        lines = ("\t".join(row) + "\n" for row in self.table(dataset)[1])
        return hashlib.sha256("".join(lines).encode()).hexdigest()
