"""The expert beside the sequence model: what two entities' rows are on the whole → a logit.

What a partner is made of is most of what can be learnt from a few thousand pairs, and a mean over the outputs of scans
passes little of it on (ours; docs/design/0016).

Shapes: L rows of a sequence, D their width, S distinct entities of a side, W width of a summary, P pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossllm.model.batch import Packed, segment_mean, spread_over
from crossllm.model.draws import Dropout
from crossllm.model.standardise import Moments, Standardise

STATISTICS = ("mean", "deviation", "largest")
"""Of each column over an entity's rows, in this order."""
_NO_SPREAD = 1e-12
"""Keeps the gradient of a root finite where an entity has one row, or all alike."""


class Summary(nn.Module):
    """Statistics of an entity's rows (S, 3 D) → z (S, W): standardised over the training part's entities, one layer."""

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        columns = len(STATISTICS) * dim
        self.standardise = Standardise(columns)
        self.join = nn.Sequential(nn.Linear(columns, width), nn.GELU(), Dropout(dropout))

    def fit(self, moments: Moments) -> None:
        """Take the moments of the training part's entities over `summarise`'s columns."""
        self.standardise.fit(moments)

    def forward(self, statistics: Tensor) -> Tensor:
        """(S, W)."""
        summary: Tensor = self.join(self.standardise(statistics))
        return summary


class SummaryHead(nn.Module):
    """Summaries of both partners → (P,): an MLP on [z_A ; z_B ; z_A ⊙ z_B].

    The first layer's part on z_A, and on z_B, is computed once an entity, not once a pair.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        layers = nn.Linear(3 * width, width), nn.GELU(), Dropout(dropout), nn.Linear(width, 1)
        self.layers = nn.Sequential(*layers)

    def forward(self, z_a: Tensor, z_b: Tensor, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P,) of entities (S, W) each, and which of them each pair has (P,), on their device."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        own_a, own_b, both = first.weight.chunk(3, 1)
        pair_a, pair_b = z_a.index_select(0, a_index), z_b.index_select(0, b_index)
        hidden = F.linear(pair_a * pair_b, both, first.bias)
        hidden = hidden + F.linear(z_a, own_a).index_select(0, a_index)
        hidden = hidden + F.linear(z_b, own_b).index_select(0, b_index)
        logit: Tensor = self.layers[1:](hidden)[:, 0]
        return logit


def summarise(rows: Packed) -> Tensor:
    """(S, 3 D) float32: of each entity the `STATISTICS` of every column over its rows; sums are in float64."""
    x = rows._replace(tokens=rows.tokens.double())
    mean = segment_mean(x)
    variance = segment_mean(x._replace(tokens=(x.tokens - spread_over(mean, x.offsets)).square()))
    # Not segment_reduce: where rows share the largest value its gradient is too large, up to as many times as they are
    # (torch 2.13; findings/torch_segment_reduce_ties.sh).
    of_row = torch.repeat_interleave(x.offsets.diff())[:, None].expand(x.tokens.shape).to(x.tokens.device)
    # It starts from what no row shares: include_self=False counts a start of 0 as a row (torch 2.13).
    largest = mean.new_full(mean.shape, -math.inf).scatter_reduce(0, of_row, x.tokens, "amax")
    return torch.cat([mean, (variance + _NO_SPREAD).sqrt(), largest], 1).float()
