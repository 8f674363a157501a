"""Noise and dropout of a batch that several processes share: each draws for all of it and takes what is its own.

A process that has a part of a batch then has the draws that it would have in the whole one, and all processes' random
states stay the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Part(NamedTuple):
    """Rows of something of which a whole batch has more."""

    rows: Tensor
    """(n,) int64 on the CPU, which of the batch's rows these are, in their order."""
    size: int
    """Rows in the batch."""

    def take(self, drawn: Tensor) -> Tensor:
        """Of what was drawn for all rows, (size, …), the own: (n, …)."""
        return drawn[self.rows.to(drawn.device)]


class BatchPart(NamedTuple):
    """What a process has of a batch: of each side the tokens and entities that its pairs have, and the pairs."""

    tokens: tuple[Part, Part]
    entities: tuple[Part, Part]
    pairs: Part


class Noise(nn.Module):
    """x + ε, ε ~ N(0, σ²), in training only."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.part: Part | None = None
        """None: x is of a whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, M)."""
        if not self.training or self.sigma <= 0:
            return x
        if self.part is None:
            return x + self.sigma * torch.randn_like(x)
        drawn = torch.randn(self.part.size, *x.shape[1:], dtype=x.dtype, device=x.device)
        return x + self.sigma * self.part.take(drawn)


class Dropout(nn.Dropout):
    """torch's, which of a part of a batch drops what it would drop of the whole."""

    part: Part | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The input's shape."""
        if self.part is None or not self.training or self.p == 0:
            return super().forward(input)
        return input * self.part.take(F.dropout(input.new_ones(self.part.size, *input.shape[1:]), self.p))


def draw_for(layers: nn.Module, part: Part | None) -> None:
    """Let everything in `layers` that draws do so for a batch of which it is given a part; None: it is given all."""
    for layer in layers.modules():
        if isinstance(layer, Noise | Dropout):
            layer.part = part
