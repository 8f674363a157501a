"""Packed sequences cut into chunks of a fixed number of steps, in the order a scan goes through them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Chunks(NamedTuple):
    """K chunks of S sequences; tensors lie on the scan's device."""

    first: Tensor
    """(K,) int64: packed token of each chunk's first step."""
    steps: Tensor
    """(K,) int64: its steps, all chunks of a sequence but the last are full."""
    ends: Tensor
    """(S+1,) int64: which chunks a sequence has."""
    sign: int
    """From a step's token to the next: 1, or -1 for the reversed scan."""


def cut(offsets: Tensor, size: int, reverse: bool, device: torch.device) -> Chunks:
    """Cut each sequence from its scan's first token; a sequence's chunks follow one another.

    Args:
        offsets: (S+1,) int64 on the CPU.
        size: steps of a full chunk.
        reverse: the scan starts at a sequence's last token.
        device: where the tables go.
    """
    lengths = offsets.diff()
    counts = -(-lengths // size)
    ends = torch.cat([offsets[:1], counts.cumsum(0)])
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)
    done = (torch.arange(int(ends[-1])) - ends[sequence]) * size  # steps of the sequence before this chunk
    first = offsets[1:][sequence] - 1 - done if reverse else offsets[:-1][sequence] + done
    steps = torch.clamp(lengths[sequence] - done, max=size)
    return Chunks(first.to(device), steps.to(device), ends.to(device), -1 if reverse else 1)
