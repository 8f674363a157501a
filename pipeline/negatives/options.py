"""What a user may choose of a draw of negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from crossllm.cache.errors import InputError
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.similarity.rules import FLOOR

Match = Literal["degree", "none"]
MATCHES: tuple[Match, ...] = ("degree", "none")
MOST = 1000
"""Negatives for one positive."""


class NegativeOptions(NamedTuple):
    """One draw."""

    cache_dir: Path
    """Of the parent, whose positives are taken."""
    out: Path
    """Folder of the new dataset."""
    per_positive: int = 1
    match: Match = "degree"
    """`degree`: each id stands as often (× `per_positive`) in negatives as in positives; `none`: uniform."""
    hard: bool = False
    """Whether a partner is, where one can be, a relative of a positive partner."""
    near: float = 0.9
    """Identity of both sides from which a pair is too near to a known positive to be called a negative."""
    folds: int = 5
    """Random parts of distinct sequence pairs, where no column names the parts."""
    fold_column: str | None = None
    seed: int = 0

    def check(self, dataset: Dataset) -> None:
        """Raise `InputError` where a value cannot be, or fits the dataset not."""
        if dataset.task != "classification":
            raise InputError(
                f"{self.cache_dir}: holds affinities, which have no negatives; only a classification can be given some"
            )
        if not 1 <= self.per_positive <= MOST:
            raise InputError(f"--per-positive {self.per_positive}: a whole number from 1 to {MOST} is expected")
        if self.hard and self.match == "none":
            raise InputError("--hard: keeps the degrees, --match none does not; leave one of the two out")
        least = max(FLOOR[dataset.modality_a], FLOOR[dataset.modality_b])
        if not least <= self.near <= 1:
            raise InputError(
                f"--near {self.near:g}: an identity from {least:g} to 1 is expected; less is not compared between "
                f"{dataset.modality_a} and {dataset.modality_b}"
                if not dataset.one_modality
                else f"--near {self.near:g}: an identity from {least:g} to 1 is expected; less is not compared"
            )

    def column(self) -> str:
        """The one that names the parts in the new table: `fold`, or as it was called."""
        return "fold" if self.fold_column is None else self.fold_column

    def settings(self) -> dict[str, Any]:
        """For `[source]` of the new dataset.toml."""
        parts = {"fold_column": self.fold_column} if self.fold_column is not None else {"folds": self.folds}
        found: dict[str, Any] = {"per_positive": self.per_positive, "match": self.match, "hard": self.hard}
        return {**found, "near": self.near, **parts, "seed": self.seed}
