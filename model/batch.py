"""Packed tokens: a batch of pairs, each distinct entity once, and what is done to such tokens without a pad.

Shapes: T packed tokens, D width of a row, M model width, P pairs, S distinct entities of a side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """The tokens of several entities, one entity after the other."""

    tokens: Tensor
    """(T, M)."""
    offsets: Tensor
    """(S + 1,) int64 on the CPU."""
    statistics: Tensor | None = None
    """(S, 3 D) of the rows of each entity (`crossllm.model.summary`), made once, where tokens may be averages of rows;
    None: the tokens are the rows."""

    def to(self, device: torch.device) -> Packed:
        """The same with its values on a device; offsets stay on the CPU."""
        held = self.statistics
        return Packed(self.tokens.to(device), self.offsets, None if held is None else held.to(device))


class Batch(NamedTuple):
    """Pairs of a step, each distinct entity once."""

    a: Packed
    """Rows (T_a, D_a) of the distinct A entities."""
    b: Packed
    """Rows (T_b, D_b)."""
    a_index: Tensor
    """(P,) int64 on the CPU: which A entity each pair has."""
    b_index: Tensor
    """(P,) int64 on the CPU."""
    label: Tensor
    """(P,) float32."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its rows and labels on a device; offsets and indices stay on the CPU."""
        return self._replace(a=self.a.to(device), b=self.b.to(device), label=self.label.to(device))


def join_pairs(first: Packed, second: Packed, first_index: Tensor, second_index: Tensor) -> Packed:
    """S = [X ; Y] of every pair, X of the first set and Y of the second: the P pairs, packed.

    Args:
        first, second: entities, of the same width.
        first_index, second_index: (P,) int64 on the CPU, which entity each pair has.
    """
    starts = [first.offsets[first_index], len(first.tokens) + second.offsets[second_index]]
    lengths = [first.offsets.diff()[first_index], second.offsets.diff()[second_index]]
    tokens = torch.cat([first.tokens, second.tokens])
    joined = _gathered(tokens, torch.stack(starts, 1).reshape(-1), torch.stack(lengths, 1).reshape(-1))
    return joined._replace(offsets=joined.offsets[::2])


def gather(entities: Packed, index: Tensor) -> Packed:
    """The entities that `index` (P,) names, in its order, an entity as often as it is named."""
    held = entities.statistics
    gathered = _gathered(entities.tokens, entities.offsets[index], entities.offsets.diff()[index])
    return gathered._replace(statistics=None if held is None else held[index.to(held.device)])


def _gathered(tokens: Tensor, starts: Tensor, lengths: Tensor) -> Packed:
    """The stretches of `tokens` that begin at `starts` and are `lengths` long, one after the other."""
    ends = lengths.cumsum(0)
    source = torch.arange(int(ends[-1])) + torch.repeat_interleave(starts - (ends - lengths), lengths)
    return Packed(tokens.index_select(0, source.to(tokens.device)), torch.cat([ends.new_zeros(1), ends]))


def segment_mean(x: Packed) -> Tensor:
    """Mean of each sequence's tokens, in float32 under autocast: (T, M) → (S, M)."""
    tokens = x.tokens.float() if x.tokens.dtype == torch.bfloat16 else x.tokens
    return segment_sum(x._replace(tokens=tokens)) / x.offsets.diff().to(tokens.device)[:, None]


def segment_sum(x: Packed) -> Tensor:
    """Sum of each sequence's tokens: (T, M) → (S, M)."""
    total: Tensor = _SegmentSum.apply(x.tokens, x.offsets)  # type: ignore[no-untyped-call]
    return total


def spread_over(rows: Tensor, offsets: Tensor) -> Tensor:
    """Each sequence's row to all its tokens: (S, M) → (T, M)."""
    return rows.index_select(0, _sequence_of_token(offsets).to(rows.device))


class _SegmentSum(torch.autograd.Function):
    """On the CPU torch's segment_reduce is more than ten times slower, forward and backward (docs/LOG.md)."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, offsets: Tensor) -> Tensor:
        """(S, M)."""
        ctx.offsets = offsets
        if tokens.device.type == "cpu":
            sums = tokens.new_zeros(len(offsets) - 1, tokens.shape[1])
            return sums.index_add_(0, _sequence_of_token(offsets), tokens)
        lengths = offsets.diff().to(tokens.device)
        return torch.segment_reduce(tokens, "sum", lengths=lengths, axis=0, unsafe=True)  # no atomics: index_add has

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """(T, M)."""
        return spread_over(slope, ctx.offsets), None


def _sequence_of_token(offsets: Tensor) -> Tensor:
    """(T,) int64 on the CPU."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
