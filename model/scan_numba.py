"""Selective scan on the CPU: one fused pass, SIMD over channels, threads over channel blocks × sequence groups.

Forward keeps the state of every `EVERY`-th step; backward recomputes the states between two of those from the first,
so memory is O(T·C) instead of the O(T·C·N) of all states.  Sums over sequences and over channels are taken in a fixed
order, whatever the number of threads: the same input gives the same bits.

Legend: T packed tokens, C channels, N state, K block of channels, P checkpoints.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import intrinsic

BLOCK = 64
"""Channels a task handles: the state of a block, 64 × 16 float32, stays in the first-level cache."""
EVERY = 32
"""Steps between two kept states; a chunk's recomputed states, 32 × 64 × 16 float32, stay in the second-level cache."""
GROUPS = 16
"""Groups of sequences: the most tasks a channel block is split into; constant, so that sums never depend on threads."""

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)


@intrinsic
def _as_float32(typing_context: Any, value: Any) -> Any:
    """The float32 whose bits are those of an int32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always", fastmath=True)
def _exp(x):
    """e^x for x ≤ 0 in float32, relative error < 2e-7; written out because LLVM does not vectorise libm's expf.

    x = n ln 2 + r, |r| ≤ ln 2 / 2; e^r by its Taylor polynomial of degree 6; 2^n by the exponent bits.
    """
    x = max(x, np.float32(-87.0))
    n = math.floor(x * _LOG2E + np.float32(0.5))
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    return p * _as_float32((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def _forward(u, delta, at, b, c, d, offsets, groups, reverse, y, kept, kept_offsets):
    """Y and, where `kept` is not empty, the state before every EVERY-th step.  at is A transposed, (N, C)."""
    channels, states = u.shape[1], at.shape[0]
    blocks = (channels + BLOCK - 1) // BLOCK
    tasks = blocks * (len(groups) - 1)
    for task in prange(tasks):
        c0 = (task % blocks) * BLOCK
        width = min(BLOCK, channels - c0)
        h = np.zeros((states, BLOCK), np.float32)
        a = np.zeros((states, BLOCK), np.float32)
        a[:, :width] = at[:, c0 : c0 + width]
        dt = np.zeros(BLOCK, np.float32)
        du = np.zeros(BLOCK, np.float32)
        acc = np.zeros(BLOCK, np.float32)
        for s in range(groups[task // blocks], groups[task // blocks + 1]):
            h[:] = np.float32(0.0)
            length = offsets[s + 1] - offsets[s]
            for i in range(length):
                t = offsets[s + 1] - 1 - i if reverse else offsets[s] + i
                if kept.shape[0] and i % EVERY == 0:
                    kept[kept_offsets[s] + i // EVERY, :, c0 : c0 + width] = h[:, :width]
                for j in range(width):
                    dt[j] = delta[t, c0 + j]
                    du[j] = dt[j] * u[t, c0 + j]
                    acc[j] = d[c0 + j] * u[t, c0 + j]
                for n in range(states):
                    bn, cn = b[t, n], c[t, n]
                    for j in range(BLOCK):
                        new = _exp(dt[j] * a[n, j]) * h[n, j] + du[j] * bn
                        h[n, j] = new
                        acc[j] += cn * new
                for j in range(width):
                    y[t, c0 + j] = acc[j]


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def _backward(dy, u, delta, at, b, c, d, offsets, groups, reverse, kept, kept_offsets, du, ddelta, da, db, dc, dd):
    """Gradients; da (G, N, C), dd (G, C), db and dc (blocks, T, N) are partial sums, added up by the caller."""
    channels, states = u.shape[1], at.shape[0]
    blocks = (channels + BLOCK - 1) // BLOCK
    tasks = blocks * (len(groups) - 1)
    for task in prange(tasks):
        block, group = task % blocks, task // blocks
        c0 = block * BLOCK
        width = min(BLOCK, channels - c0)
        a = np.zeros((states, BLOCK), np.float32)
        a[:, :width] = at[:, c0 : c0 + width]
        h = np.zeros((EVERY + 1, states, BLOCK), np.float32)
        decay = np.zeros((EVERY, states, BLOCK), np.float32)
        g = np.zeros((states, BLOCK), np.float32)
        da_block = np.zeros((states, BLOCK), np.float32)
        dd_block = np.zeros(BLOCK, np.float32)
        dt = np.zeros(BLOCK, np.float32)
        ut = np.zeros(BLOCK, np.float32)
        dyt = np.zeros(BLOCK, np.float32)
        gb = np.zeros(BLOCK, np.float32)
        gah = np.zeros(BLOCK, np.float32)
        for s in range(groups[group], groups[group + 1]):
            g[:] = np.float32(0.0)
            length = offsets[s + 1] - offsets[s]
            for chunk in range((length - 1) // EVERY, -1, -1):
                first = chunk * EVERY
                steps = min(EVERY, length - first)
                h[0, :, :width] = kept[kept_offsets[s] + chunk, :, c0 : c0 + width]
                for k in range(steps):  # the states of this chunk again
                    t = offsets[s + 1] - 1 - first - k if reverse else offsets[s] + first + k
                    for j in range(width):
                        dt[j] = delta[t, c0 + j]
                        ut[j] = dt[j] * u[t, c0 + j]
                    for n in range(states):
                        bn = b[t, n]
                        for j in range(BLOCK):
                            e = _exp(dt[j] * a[n, j])
                            decay[k, n, j] = e
                            h[k + 1, n, j] = e * h[k, n, j] + ut[j] * bn
                for k in range(steps - 1, -1, -1):
                    t = offsets[s + 1] - 1 - first - k if reverse else offsets[s] + first + k
                    for j in range(width):
                        dt[j] = delta[t, c0 + j]
                        ut[j] = u[t, c0 + j]
                        dyt[j] = dy[t, c0 + j]
                        dd_block[j] += dyt[j] * ut[j]
                        gb[j] = np.float32(0.0)
                        gah[j] = np.float32(0.0)
                    for n in range(states):
                        bn, cn = b[t, n], c[t, n]
                        sum_b, sum_c = np.float32(0.0), np.float32(0.0)
                        for j in range(BLOCK):
                            gn = g[n, j] + cn * dyt[j]
                            sum_c += dyt[j] * h[k + 1, n, j]
                            sum_b += gn * dt[j] * ut[j]
                            gb[j] += gn * bn
                            gn = gn * decay[k, n, j]  # now the gradient of the state before this step
                            gh = gn * h[k, n, j]
                            gah[j] += gh * a[n, j]
                            da_block[n, j] += gh * dt[j]
                            g[n, j] = gn
                        db[block, t, n] = sum_b
                        dc[block, t, n] = sum_c
                    for j in range(width):
                        du[t, c0 + j] = d[c0 + j] * dyt[j] + dt[j] * gb[j]
                        ddelta[t, c0 + j] = gah[j] + ut[j] * gb[j]
        da[group, :, c0 : c0 + width] = da_block[:, :width]
        dd[group, c0 : c0 + width] = dd_block[:width]


def _group(offsets: np.ndarray) -> np.ndarray:
    """Boundaries of at most `GROUPS` runs of sequences with about equal tokens; depends on the lengths alone."""
    count = len(offsets) - 1
    targets = offsets[-1] * np.arange(1, min(GROUPS, count)) // min(GROUPS, count)
    cuts = np.unique(np.searchsorted(offsets, targets))
    return np.unique(np.concatenate([[0], cuts, [count]])).astype(np.int64)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, offsets: Any, reverse: bool, keep: bool
    ) -> Any:
        """y, shape (T, C); see `model.scan.selective_scan`."""
        at = A.detach().t().contiguous()
        ends = offsets.numpy()
        groups = _group(ends)
        chunks = -(-np.diff(ends) // EVERY)
        kept_offsets = np.concatenate([[0], np.cumsum(chunks)])
        kept = torch.empty((int(kept_offsets[-1]) if keep else 0, A.shape[1], A.shape[0]))
        y = torch.empty_like(u)
        arrays = [x.detach().contiguous().numpy() for x in (u, delta, at, B, C, D)]
        _forward(*arrays, ends, groups, reverse, y.numpy(), kept.numpy(), kept_offsets)
        ctx.save_for_backward(u, delta, at, B, C, D, offsets, kept)
        ctx.reverse, ctx.groups, ctx.kept_offsets = reverse, groups, kept_offsets
        return y

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        """Gradients of u, delta, A, B, C and D."""
        u, delta, at, B, C, D, offsets, kept = ctx.saved_tensors
        states, channels = at.shape
        blocks, groups = -(-channels // BLOCK), len(ctx.groups) - 1
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        da, dd = torch.empty((groups, states, channels)), torch.empty((groups, channels))
        db, dc = torch.empty((blocks, len(u), states)), torch.empty((blocks, len(u), states))
        arrays = [x.contiguous().numpy() for x in (dy, u, delta, at, B, C, D)]
        _backward(
            *arrays,
            offsets.numpy(),
            ctx.groups,
            ctx.reverse,
            kept.numpy(),
            ctx.kept_offsets,
            *(x.numpy() for x in (du, ddelta, da, db, dc, dd)),
        )
        return du, ddelta, da.sum(0).t(), db.sum(0), dc.sum(0), dd.sum(0), None, None, None


def scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, offsets: Any, reverse: bool) -> torch.Tensor:
    """`model.scan.selective_scan` for float32 tensors on the CPU."""
    # Inside forward() gradients are always off, and needs_input_grad is set for parameters even under no_grad.
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (u, delta, A, B, C, D))
    y: torch.Tensor = _Scan.apply(u, delta, A, B, C, D, offsets, reverse, keep)
    return y
