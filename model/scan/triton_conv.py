"""Packed causal convolution on CUDA in Triton, forward and backward.

Sums over tokens are partial sums by part of the tokens, added up in a fixed order by torch: no atomics.  Inside it is
float32 whatever the inputs.  Legend: T packed tokens, C channels, WIDTH of the kernel, L tokens and W channels of a
program.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from crossllm.model.scan.triton_call import on_device_of_first

PART, BLOCK = 64, 64
"""Tokens and channels of a program."""


@triton.jit
def _place(T, C, L: tl.constexpr, W: tl.constexpr):
    """Tokens and channels of a program, and their mask."""
    t = tl.program_id(0).to(tl.int64) * L + tl.arange(0, L)
    c = tl.program_id(1) * W + tl.arange(0, W)
    return t, c, (t < T)[:, None] & (c < C)[None, :]


@triton.jit
def _window(x, weight, bias, reach, sign, y, T, C, WIDTH: tl.constexpr, BIAS: tl.constexpr, L: tl.constexpr,
            W: tl.constexpr):  # fmt: skip
    """Each token's sum over itself and the up to WIDTH − 1 tokens of its sequence at `sign` · shift."""
    t, c, inside = _place(T, C, L, W)
    room = tl.load(reach + t, t < T, -1)
    total = tl.zeros((L, W), tl.float32)
    if BIAS:
        total += tl.load(bias + c, c < C, 0.0).to(tl.float32)[None, :]
    for shift in tl.static_range(WIDTH):
        seen = inside & (room >= shift)[:, None]
        row = tl.load(x + (t + sign * shift)[:, None] * C + c[None, :], seen, 0.0).to(tl.float32)
        tap = tl.load(weight + c * WIDTH + WIDTH - 1 - shift, c < C, 0.0).to(tl.float32)
        total += row * tap[None, :]
    tl.store(y + t[:, None] * C + c[None, :], total.to(y.dtype.element_ty), inside)


@triton.jit
def _taps(dy, x, before, sign, dweight, dbias, T, C, WIDTH: tl.constexpr, L: tl.constexpr, W: tl.constexpr):
    """Gradients of weight (parts, WIDTH, C) and bias (parts, C) by part of the tokens."""
    t, c, inside = _place(T, C, L, W)
    part = tl.program_id(0).to(tl.int64)
    room = tl.load(before + t, t < T, -1)
    slope = tl.load(dy + t[:, None] * C + c[None, :], inside, 0.0).to(tl.float32)
    tl.store(dbias + part * C + c, tl.sum(slope, 0), c < C)
    for shift in tl.static_range(WIDTH):
        seen = inside & (room >= shift)[:, None]
        row = tl.load(x + (t - sign * shift)[:, None] * C + c[None, :], seen, 0.0).to(tl.float32)
        tl.store(dweight + (part * WIDTH + WIDTH - 1 - shift) * C + c, tl.sum(slope * row, 0), c < C)


class _Conv(torch.autograd.Function):
    @staticmethod
    @on_device_of_first
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, before: Any, after: Any, sign: int) -> Any:
        """y, shape (T, C); see `crossllm.model.scan.conv.causal_conv`."""
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        (tokens, channels), width = x.shape, weight.shape[1]
        y, grid = torch.empty_like(x), (triton.cdiv(tokens, PART), triton.cdiv(channels, BLOCK))
        _window[grid](x, weight, bias, before, -sign, y, tokens, channels, width, True, PART, BLOCK)
        ctx.save_for_backward(x, weight, bias, before, after)
        ctx.sign = sign
        return y

    @staticmethod
    @on_device_of_first
    def backward(ctx: Any, dy: Any) -> Any:
        """Gradients of x, weight and bias."""
        x, weight, bias, before, after = ctx.saved_tensors
        dy, (tokens, channels), width = dy.contiguous(), x.shape, weight.shape[1]
        grid = triton.cdiv(tokens, PART), triton.cdiv(channels, BLOCK)
        dx = torch.empty_like(x)
        _window[grid](dy, weight, bias, after, ctx.sign, dx, tokens, channels, width, False, PART, BLOCK)
        dweight = x.new_empty(grid[0], width, channels, dtype=torch.float32)
        dbias = x.new_empty(grid[0], channels, dtype=torch.float32)
        _taps[grid](dy, x, before, ctx.sign, dweight, dbias, tokens, channels, width, PART, BLOCK)
        return dx, dweight.sum(0).t().to(weight.dtype), dbias.sum(0).to(bias.dtype), None, None, None


def conv(x: Any, weight: Any, bias: Any, before: Any, after: Any, reverse: bool) -> torch.Tensor:
    """`crossllm.model.scan.conv.causal_conv` on CUDA; arguments as `crossllm.model.scan.numba_conv.conv`."""
    before, after = before.to(x.device), after.to(x.device)
    y: torch.Tensor = _Conv.apply(x, weight, bias, before, after, -1 if reverse else 1)
    return y
