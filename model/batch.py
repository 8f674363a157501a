"""Packed tokens: a batch of pairs, each distinct entity once, and what is done to such tokens without a pad.

Shapes: T packed tokens, D width of a row, M model width, P pairs, S distinct entities of a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """The tokens of several entities, one entity after the other."""

    tokens: Tensor
    """(T, M)."""
    offsets: Tensor
    """(S + 1,) int64 on the CPU."""


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
        a, b = (side._replace(tokens=side.tokens.to(device)) for side in (self.a, self.b))
        return self._replace(a=a, b=b, label=self.label.to(device))


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
    return _gathered(entities.tokens, entities.offsets[index], entities.offsets.diff()[index])


def _gathered(tokens: Tensor, starts: Tensor, lengths: Tensor) -> Packed:
    """The stretches of `tokens` that begin at `starts` and are `lengths` long, one after the other."""
    ends = lengths.cumsum(0)
    source = torch.arange(int(ends[-1])) + torch.repeat_interleave(starts - (ends - lengths), lengths)
    return Packed(tokens.index_select(0, source.to(tokens.device)), torch.cat([ends.new_zeros(1), ends]))


def segment_mean(x: Packed) -> Tensor:
    """Mean of each sequence's tokens, in float32 under autocast: (T, M) → (S, M)."""
    lengths = x.offsets.diff().to(x.tokens.device)
    tokens = x.tokens.float() if x.tokens.dtype == torch.bfloat16 else x.tokens
    return torch.segment_reduce(tokens, "mean", lengths=lengths, axis=0, unsafe=True)


def segment_sum(x: Packed) -> Tensor:
    """Sum of each sequence's tokens: (T, M) → (S, M)."""
    lengths = x.offsets.diff().to(x.tokens.device)
    return torch.segment_reduce(x.tokens, "sum", lengths=lengths, axis=0, unsafe=True)


def spread_over(rows: Tensor, offsets: Tensor) -> Tensor:
    """Each sequence's row to all its tokens: (S, M) → (T, M)."""
    return rows.repeat_interleave(offsets.diff().to(rows.device), 0, output_size=int(offsets[-1]))
