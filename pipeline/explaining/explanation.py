"""What `crossllm.pipeline.explaining.explain.explain` is asked, and what it answers.

Shapes: L places (residues, nucleotides or atoms) of a partner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RANDOM_ORDERS = 10
"""Random orders of the places that the deletion curve is held against."""


@dataclass(frozen=True)
class ExplainOptions:
    """How importance is measured."""

    steps: int = 64
    """Of integrated gradients."""
    width: int = 5
    """Places that a window of occlusion covers; at least those of a token."""
    folds: tuple[str, ...] = ()
    """Names of the folds whose models are asked; empty: all."""
    seed: int = 0
    """Of the random orders of the deletion curve."""
    device: str = "cpu"


class Track(NamedTuple):
    """One partner, place by place."""

    id: str
    modality: str
    sequence: str
    letters: tuple[str, ...]
    """What stands at each place; under truncate:N those of the first N."""
    attribution: np.ndarray
    """(L,) float64: integrated gradients, mean over the models."""
    deviation: np.ndarray | None
    """(L,) standard deviation over the models; None with one model."""
    occlusion: np.ndarray
    """(L,) how much the output falls without the windows over a place, a place's share."""


class Deletion(NamedTuple):
    """The output while places are deleted, most important first, and in random orders."""

    share: np.ndarray
    """(11,) of the places of both partners that are gone."""
    top: np.ndarray
    """(11,) output."""
    random_mean: np.ndarray
    """(11,) over `RANDOM_ORDERS`."""
    random_std: np.ndarray
    """(11,)."""


class Explanation(NamedTuple):
    """A pair explained."""

    a: Track
    b: Track
    value: float
    """Mean logit or affinity over the models."""
    without: tuple[float, float]
    """The same where nothing is known of A, and of B."""
    votes: int | None
    """Models that predict 1; None in a regression."""
    models: int
    errors: tuple[float, float]
    """Convergence error of A's and of B's attributions, each of the worst model: their sum − (value − without)."""
    rank_correlation: float | None
    """Spearman's, over windows, between occlusion and the attributions' sums; None where one is constant."""
    deletion: Deletion

    @property
    def relative_error(self) -> float | None:
        """The larger of the |error| / |value − without|; None where a partner makes no difference at all."""
        wholes = [abs(self.value - other) for other in self.without]
        return max(abs(e) / whole for e, whole in zip(self.errors, wholes, strict=True)) if all(wholes) else None
