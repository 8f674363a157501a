"""Packed causal convolution on the CPU: sixteen channels a register, threads over parts of the tokens.

Sums over tokens are taken part by part in a fixed order, whatever the number of threads: the same input gives the same
bits.  Arrays come flat, in C order.  Legend: T packed tokens, C channels (whole registers), W width of the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch.nn import functional as F

from crossllm.kernels import kernel
from crossllm.model.scan.numba_call import flat, fresh, use_threads
from crossllm.model.scan.simd import WIDTH, fma, load, spread, store

INLINED = {"simd": "f2b449f9"}
"""CRC-32 of files whose code is compiled into these kernels: Numba's cache sees this file alone.  A test keeps it."""
PART = 64
"""Tokens of a task."""


@njit(error_model="numpy")
def window_sum(sum_, x, weight, t, step, far, column, channels, width):
    """Sixteen lanes of a token's window added to a sum: `far` tokens beside its own, each a `step` on."""
    for shift in range(far + 1):
        tap = load(weight, (width - 1 - shift) * channels + column)
        sum_ = fma(tap, load(x, (t + step * shift) * channels + column), sum_)
    return sum_


@kernel(parallel=True, error_model="numpy")
def _forward(x, weight, bias, before, sign, y):
    """Y (T, C); weight is (W, C), before (T,) says how many tokens of its own sequence a token's window may reach."""
    tokens, channels = len(before), len(bias)
    width = len(weight) // channels
    for part in prange(-(-tokens // PART)):
        for t in range(part * PART, min((part + 1) * PART, tokens)):
            reach = min(width - 1, before[t])
            for column in range(0, channels, WIDTH):
                sum_ = window_sum(load(bias, column), x, weight, t, -sign, reach, column, channels, width)
                store(y, t * channels + column, sum_)


@kernel(parallel=True, error_model="numpy")
def _backward(dy, x, weight, before, after, sign, dx, dweight, dbias):
    """Gradients; dweight (parts, W·C) and dbias (parts, C) are partial sums, added up by the caller."""
    tokens, channels = len(before), dbias.shape[1]
    width = len(weight) // channels
    for part in prange(-(-tokens // PART)):
        first, stop = part * PART, min((part + 1) * PART, tokens)
        own_weight, own_bias = dweight[part], dbias[part]
        for t in range(first, stop):
            reach = min(width - 1, after[t])
            for column in range(0, channels, WIDTH):
                none = spread(np.float32(0.0))
                sum_ = window_sum(none, dy, weight, t, sign, reach, column, channels, width)
                store(dx, t * channels + column, sum_)
        for column in range(0, channels, WIDTH):
            sum_ = spread(np.float32(0.0))
            for t in range(first, stop):
                sum_ = sum_ + load(dy, t * channels + column)
            store(own_bias, column, sum_)
            for shift in range(width):
                sum_ = spread(np.float32(0.0))
                for t in range(first, stop):
                    if before[t] >= shift:
                        row = load(x, (t - sign * shift) * channels + column)
                        sum_ = fma(load(dy, t * channels + column), row, sum_)
                store(own_weight, (width - 1 - shift) * channels + column, sum_)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, before: Any, after: Any, sign: int) -> Any:
        """y, shape (T, C); see `crossllm.model.scan.conv.causal_conv`."""
        channels = len(bias)
        spare = -channels % WIDTH  # channels up to a whole register: they stay zero
        taps = F.pad(weight.detach().t(), (0, spare)).contiguous()
        x, bias = (F.pad(z.detach(), (0, spare)) if spare else z for z in (x, bias))
        y = fresh(*x.shape)
        use_threads()
        _forward(*flat(x, taps, bias, before), sign, *flat(y))
        ctx.save_for_backward(x, taps, before, after)
        ctx.sign, ctx.channels = sign, channels
        return y[:, :channels] if spare else y

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        """Gradients of x, weight and bias."""
        x, taps, before, after = ctx.saved_tensors
        (tokens, padded), width, channels = x.shape, len(taps), ctx.channels
        if padded > channels:
            dy = F.pad(dy, (0, padded - channels))
        parts = -(-tokens // PART)
        dx, dweight, dbias = fresh(*x.shape), fresh(parts, width * padded), fresh(parts, padded)
        partial = dweight.numpy(), dbias.numpy()
        use_threads()
        _backward(*flat(dy, x, taps, before, after), ctx.sign, *flat(dx), *partial)
        taps = dweight.sum(0).view(width, padded)[:, :channels].t()
        return dx[:, :channels], taps, dbias.sum(0)[:channels], None, None, None


def conv(x: Any, weight: Any, bias: Any, before: Any, after: Any, reverse: bool) -> torch.Tensor:
    """`crossllm.model.scan.conv.causal_conv` for float32 tensors on the CPU.

    Args:
        x, weight, bias: as there.
        before, after: (T,) int64, tokens of its own sequence that each token has on the window's side and on the other.
        reverse: the window looks ahead.
    """
    y: torch.Tensor = _Conv.apply(x, weight, bias, before, after, -1 if reverse else 1)
    return y
