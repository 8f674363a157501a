"""What a user may choose of a split."""

from __future__ import annotations

from typing import NamedTuple

from crossllm.cache.errors import InputError
from crossllm.pipeline.similarity.rules import IDENTITY, Molecules, Rule

KINDS = ("random", "cold-a", "cold-b", "cold-both", "cluster", "given", "transfer", "file")
BLOCKS = ("diagonal", "all")
MOLECULES = ("inchikey", "scaffold", "ecfp")
USERS = {
    "folds": ("random", "cold-a", "cold-b", "cold-both", "cluster"),
    "blocks": ("cold-both", "cluster"),
    "fold_column": ("given", "random"),
    "train_on": ("transfer",),
    "test_on": ("transfer",),
}
"""Setting → the kinds that use it; identities and rules of relatives are used by every leak report.  Random folds name
the column that they do not take."""


class SplitOptions(NamedTuple):
    """One split."""

    kind: str = "random"
    """One of `KINDS`."""
    folds: int = 5
    seed: int = 0
    fold_column: str = "fold"
    """Of `given`."""
    blocks: str = "diagonal"
    """Of `cold-both` and `cluster`: which blocks of the grid are tested."""
    identity_a: float = 0.0
    """Least identity of two sequences of one cluster; 0: the default of the modality."""
    identity_b: float = 0.0
    molecules: Molecules = "inchikey"
    """What makes a cluster of molecules."""
    train_on: str = ""
    """Of `transfer`: COLUMN=VALUE[,VALUE …]."""
    test_on: str = ""

    def rule(self, side: str, modality: str) -> Rule:
        """When two sequences of a side are similar."""
        asked = self.identity_a if side == "a" else self.identity_b
        return Rule(modality, asked or IDENTITY[modality], self.molecules)

    def check_one_modality(self, modality: str) -> None:
        """Raise `InputError` where one set of sequences is to be clustered by two thresholds."""
        if self.rule("a", modality) != self.rule("b", modality):
            raise InputError(
                f"--identity-a {self.identity_a:g}, --identity-b {self.identity_b:g}: both sides are {modality} and "
                "are clustered together; give both the same"
            )
