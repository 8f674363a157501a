"""LPI-CSFFR's block of convolutions over features in a line (Huang et al. 2022), which RNAincoder takes over.

Shapes: B pairs, L features in a line, C = 78 channels of a widened line, N entries that differ from the line at rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossllm.pipeline.systems.layers import KERAS_EPSILON, TwoClasses, norm

FILTERS = 24
GROWTH = 18
BLOCKS = 3
CHANNELS = FILTERS + BLOCKS * GROWTH
"""C: of a widened line and of a block's output."""
KERNEL = 6
"""Width of the convolution and of the pooling."""
BEFORE, AFTER = 2, 3
"""Zeros beside a line, so that the convolution keeps its length: Keras puts the odd one behind."""


MOMENTUM = 0.1
"""Of running moments, as torch has it."""


class Widen(nn.Module):
    """A convolution of width 1 from one channel to C, batch normalisation and ReLU.

    From one channel all of it is ReLU(u·x + v) with u and v by channel: the normalisation needs the mean and variance
    of x alone, and takes the convolution's bias out again, which therefore is none.
    """

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(CHANNELS, 1, 1)).view(CHANNELS))
        self.gain = nn.Parameter(torch.ones(CHANNELS))
        self.shift = nn.Parameter(torch.zeros(CHANNELS))
        self.register_buffer("mean", torch.zeros(()))  # running, of x
        self.register_buffer("var", torch.ones(()))

    def lines(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U and v, (C,) each, of a batch of lines (B, L)."""
        var, mean = self.var, self.mean
        if self.training:
            var, mean = torch.var_mean(x, correction=0)
            self.mean.lerp_(mean, MOMENTUM)
            self.var.lerp_(var, MOMENTUM)
        slope = self.gain * self.weight / torch.sqrt(self.weight.square() * var + KERAS_EPSILON)
        return slope, self.shift - slope * mean

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) → (B, C, L)."""
        slope, level = self.lines(x)
        return F.relu(slope[:, None] * x[:, None, :] + level[:, None])


class DenseBlock(nn.Module):
    """Convolution 24 × 6, normalisation, ReLU, pooling by 6; three convolutions that add 18 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, FILTERS, KERNEL)
        self.norm = nn.BatchNorm2d(FILTERS, eps=KERAS_EPSILON)
        widths = [FILTERS + GROWTH * n for n in range(BLOCKS)]
        self.growing = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, GROWTH, 3, padding=1), norm(GROWTH), nn.ReLU()) for width in widths
        )
        self.last = norm(CHANNELS)

    def forward(self, wide: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L ÷ 6)."""
        return self.pooled(self.conv(F.pad(wide, (BEFORE, AFTER))))

    def pooled(self, y: Tensor) -> Tensor:
        """What comes after the first convolution: (B, 24, L) → (B, C, L ÷ 6)."""
        # ReLU after the pooling, not before it: the same, on a sixth of the numbers.
        x = F.relu(F.max_pool2d(self.norm(y.unsqueeze(2)), (1, KERNEL))).squeeze(2).contiguous()
        for grow in self.growing:
            x = torch.cat([x, grow(x)], dim=1)
        grown: Tensor = self.last(x)
        return grown


class Head(nn.Sequential):
    """Flatten → 192 → 64 → 2, without biases but for the last."""

    def __init__(self, length: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(CHANNELS * length, 192, bias=False), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(192, 64, bias=False), nn.ReLU(), nn.Dropout(0.2),
            TwoClasses(64),
        )  # fmt: skip


def convolved(x: Tensor, rest: Tensor | None, widen: Widen, conv: nn.Conv1d) -> Tensor:
    """(B, 24, L) the block's first convolution of widened lines (B, L): the plain way, or where `rest` is given fast.

    Args:
        x: lines of counts, standardised.
        rest: (L,) what a count of 0 has become.  Then the convolution of a line of zeros is made once a batch and each
            pair adds what its other counts change: of an LPI-CSFFR line a tenth of the products.
        widen: before the convolution.
        conv: its weights.
    """
    if rest is None:
        plain: Tensor = conv(F.pad(widen(x), (BEFORE, AFTER)))
        return plain
    slope, level = widen.lines(x)
    still = F.relu(slope[:, None] * rest + level[:, None])  # (C, L)
    base = conv(F.pad(still[None], (BEFORE, AFTER)))[0].T  # (L, 24)
    pair, place = (x != rest).nonzero(as_tuple=True)  # (N,) each
    change = F.relu(torch.addcmul(level, x[pair, place, None], slope)) - still.T.index_select(0, place)  # (N, C)
    weight = conv.weight.permute(1, 2, 0).reshape(CHANNELS, KERNEL * FILTERS)
    # Tap t of the output at o reads the input at o + t − BEFORE.
    out = place[:, None] + BEFORE - torch.arange(KERNEL, device=x.device)  # (N, 6)
    length = x.shape[1]
    rows = torch.where((out >= 0) & (out < length), pair[:, None] * length + out, x.numel())
    moved = (change @ weight).view(-1, FILTERS)
    lines: Tensor = _Added.apply(base, moved, rows.view(-1), len(x))  # type: ignore[no-untyped-call]
    return lines.view(len(x), length, FILTERS).transpose(1, 2)


class _Added(torch.autograd.Function):
    """The same lines for every pair, and rows that are added to them; autograd's own way copies them all twice more."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, moved: Tensor, rows: Tensor, pairs: int) -> Tensor:
        """(L, 24), (6N, 24), (6N,) and B → (B · L, 24); row B · L of the sum stands for places outside the lines."""
        ctx.save_for_backward(rows)
        ctx.shape = base.shape
        y = base.new_empty(pairs * len(base) + 1, base.shape[1])
        y[:-1].view(pairs, *base.shape).copy_(base)
        return y.index_add_(0, rows, moved)[:-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of base and moved."""
        (rows,) = ctx.saved_tensors
        moved = grad.index_select(0, rows.clamp(max=len(grad) - 1))
        moved[rows == len(grad)] = 0.0
        return grad.view(-1, *ctx.shape).sum(0), moved, None, None
