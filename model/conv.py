"""Depthwise causal convolution on packed sequences, its window reset at every offset.

Without the reset a token would see the last tokens of the sequence packed before it.  With `reverse` the window looks
ahead instead of back: the causal convolution of the reversed sequence.

Shapes: T packed tokens, C channels, W width of the kernel.  `weight[:, -1]` multiplies the token itself, as in
`torch.nn.Conv1d` with left padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_conv_reference(x: Tensor, weight: Tensor, bias: Tensor, offsets: Tensor, reverse: bool = False) -> Tensor:
    """One `conv1d` a sequence, in plain torch: what the packed version is tested against.  (T, C) → (T, C)."""
    width = weight.shape[1]
    outputs = []
    for sequence in torch.split(x, offsets.diff().tolist()):
        rows = sequence.flip(0) if reverse else sequence
        padded = F.pad(rows.t()[None], (width - 1, 0))  # (1, C, W−1+L)
        y = F.conv1d(padded, weight[:, None], bias, groups=len(weight))[0].t()
        outputs.append(y.flip(0) if reverse else y)
    return torch.cat(outputs)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, offsets: Tensor, reverse: bool = False) -> Tensor:
    """The same for all sequences at once: W shifted products, masked where the window leaves the sequence.

    Args:
        x: (T, C).
        weight: (C, W).
        bias: (C,).
        offsets: (S+1,) int64 on the CPU.
        reverse: look ahead instead of back.
    """
    tokens, width = len(x), weight.shape[1]
    lengths = offsets.diff()
    starts = torch.repeat_interleave(offsets[:-1], lengths)
    position = torch.arange(tokens) - starts
    if reverse:
        position = torch.repeat_interleave(lengths, lengths) - 1 - position
    position = position.to(x.device)
    y = x * weight[:, -1] + bias
    for shift in range(1, width):
        inside = (position >= shift)[:, None]
        shifted = torch.roll(x, -shift if reverse else shift, 0)
        y = y + torch.where(inside, shifted, 0) * weight[:, -1 - shift]
    return y
