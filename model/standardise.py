"""Columns of frozen embeddings to mean 0 and deviation 1 over the training part (ours; docs/design/0004)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

STANDARD_BOUND = 10.0
"""Largest standardised value, in deviations."""


class Moments(NamedTuple):
    """Of each column of one side's tokens, over the training part."""

    mean: Tensor
    """(D,) float32."""
    std: Tensor
    """(D,) float32; 0 for a constant column."""


class Standardise(nn.Module):
    """(x − mean) / std by column, clamped: a column that the training part hardly knows must not drown the others.

    The moments are buffers, so that a checkpoint holds them; until `fit` they are 0 and 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, moments: Moments) -> None:
        """Take the training part's moments; a constant column is only centred."""
        self.mean.copy_(moments.mean)
        self.scale.copy_(torch.where(moments.std > 0, 1 / moments.std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) → (T, D)."""
        return torch.clamp((x - self.mean) * self.scale, -STANDARD_BOUND, STANDARD_BOUND)
