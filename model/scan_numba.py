"""Selective scan on the CPU: one fused pass, sixteen channels a register, threads over channels × sequences.

The paper's exp(ΔA) is 2^(ΔA·log₂e), the factor multiplied into A once.  A task takes a block of channels and a group of
sequences and goes through them in chunks of `EVERY` steps; inside a chunk each state of a tile (16 channels) runs
through all steps before the next, so that it stays in a register.

Forward keeps the states before each chunk.  Backward computes a chunk's states again from those, so memory is O(T·C)
instead of the O(T·C·N) of all states.  Sums over sequences and over channels are taken in a fixed order, whatever the
number of threads: the same input gives the same bits.

Legend: T packed tokens, C channels (padded to whole tiles where an array is ours), N states, G groups of sequences.
Arrays come flat, in C order; `scan_numba.scan` is the only caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch.nn import functional as F

from model.scan_lanes import LN2, LOG2E, WIDTH, aligned, exp2, fma, load, spread, store, total

BLOCK = 128
"""Channels of a task: 512 bytes of a row at once, which the memory's prefetching wants."""
EVERY = 32
"""Steps of a chunk: what backward keeps of one state, 2 · 32 registers, stays in the first-level cache."""
GROUPS = 16
"""Groups of sequences: the most tasks a channel block is split into; constant, so that sums never depend on threads."""


@njit(error_model="numpy")
def _turn(rows, first, step, steps, states, out):
    """Rows of B or C of one chunk as (N, EVERY): a state's values one after the other."""
    for k in range(steps):
        for n in range(states):
            out[n * EVERY + k] = rows[(first + k * step) * states + n]


@njit(error_model="numpy")
def _run_states(at, column, channels, states, steps, dt, du, bs, cs, h, y):
    """All states of a tile through a chunk; `h` (N, 16) goes from before it to after it, `y` (EVERY, 16) is added to."""
    for n in range(states):
        a = load(at, n * channels + column)
        now = load(h, n * WIDTH)
        for k in range(steps):
            driven = load(du, k * WIDTH) * spread(bs[n * EVERY + k])
            now = fma(exp2(load(dt, k * WIDTH) * a), now, driven)
            store(y, k * WIDTH, fma(spread(cs[n * EVERY + k]), now, load(y, k * WIDTH)))
        store(h, n * WIDTH, now)


@njit(parallel=True, cache=True, error_model="numpy")
def _forward(u, delta, at, b, c, d, offsets, groups, kept_offsets, reverse, y, kept):
    """Y (T, C) and, where `kept` (chunks, C/16, N, 16) is not empty, the state before each chunk; at is (N, C)."""
    channels, states = len(d), len(at) // len(d)
    blocks = -(-channels // BLOCK)
    for task in prange(blocks * (len(groups) - 1)):
        block, group = task % blocks, task // blocks
        tiles = range(block * BLOCK, min((block + 1) * BLOCK, channels), WIDTH)
        dt, du, out = aligned(EVERY * WIDTH), aligned(EVERY * WIDTH), aligned(EVERY * WIDTH)
        bs, cs = aligned(EVERY * states), aligned(EVERY * states)
        held = aligned(BLOCK * states)
        for s in range(groups[group], groups[group + 1]):
            held[:] = np.float32(0.0)
            length = offsets[s + 1] - offsets[s]
            for start in range(0, length, EVERY):
                steps = min(EVERY, length - start)
                step = -1 if reverse else 1
                first = offsets[s + 1] - 1 - start if reverse else offsets[s] + start
                _turn(b, first, step, steps, states, bs)
                _turn(c, first, step, steps, states, cs)
                for column in tiles:
                    h = held[(column - block * BLOCK) * states :]
                    if len(kept):
                        at_chunk = ((kept_offsets[s] + start // EVERY) * channels + column) * states
                        for n in range(states):
                            store(kept, at_chunk + n * WIDTH, load(h, n * WIDTH))
                    skip = load(d, column)
                    for k in range(steps):
                        t = (first + k * step) * channels + column
                        x, size = load(u, t), load(delta, t)
                        store(dt, k * WIDTH, size)
                        store(du, k * WIDTH, size * x)
                        store(out, k * WIDTH, skip * x)
                    _run_states(at, column, channels, states, steps, dt, du, bs, cs, h, out)
                    for k in range(steps):
                        store(y, (first + k * step) * channels + column, load(out, k * WIDTH))


@njit(error_model="numpy")
def _rerun_state(a, before, steps, dt, du, bs, n, decay, states_before):
    """One state of a tile through a chunk again: its decays, the states before each step, and the last state."""
    now = before
    for k in range(steps):
        e = exp2(load(dt, k * WIDTH) * a)
        store(decay, k * WIDTH, e)
        store(states_before, k * WIDTH, now)
        now = fma(e, now, load(du, k * WIDTH) * spread(bs[n * EVERY + k]))
    return now


@njit(error_model="numpy")
def _back_state(a, last, g, steps, dt, du, dy, bs, cs, n, decay, states_before, to_input, to_delta, sums_b, sums_c):
    """One state of a tile back through a chunk; returns the gradients of the state before the chunk and of A."""
    now, da = last, spread(np.float32(0.0))
    for k in range(steps - 1, -1, -1):
        lane, own = k * WIDTH, (n * EVERY + k) * WIDTH
        slope, before = load(dy, lane), load(states_before, lane)
        store(sums_c, own, fma(slope, now, load(sums_c, own)))
        g = fma(spread(cs[n * EVERY + k]), slope, g)  # of the state after this step
        store(sums_b, own, fma(g, load(du, lane), load(sums_b, own)))
        store(to_input, lane, fma(g, spread(bs[n * EVERY + k]), load(to_input, lane)))
        g = g * load(decay, lane)  # of the state before it
        through = g * before
        store(to_delta, lane, fma(through, a, load(to_delta, lane)))
        da = fma(through, load(dt, lane), da)
        now = before
    return g, da


@njit(error_model="numpy")
def _add_lanes(sums, out, first, step, steps, states):
    """Sum the lanes of (N, EVERY, 16) into rows of (T, N)."""
    for k in range(steps):
        for n in range(states):
            out[(first + k * step) * states + n] = total(load(sums, (n * EVERY + k) * WIDTH))


@njit(parallel=True, cache=True, error_model="numpy")
def _backward(dy, u, delta, at, b, c, d, offsets, groups, kept_offsets, reverse, kept, du, ddelta, da, db, dc, dd):
    """Gradients; da (G, C/16, N, 16), dd (G, C), db and dc (blocks, T·N) are partial sums, added up by the caller."""
    channels, states = len(d), len(at) // len(d)
    blocks = -(-channels // BLOCK)
    none = spread(np.float32(0.0))
    for task in prange(blocks * (len(groups) - 1)):
        block, group = task % blocks, task // blocks
        tiles = range(block * BLOCK, min((block + 1) * BLOCK, channels), WIDTH)
        size_of, driven, slope = aligned(EVERY * WIDTH), aligned(EVERY * WIDTH), aligned(EVERY * WIDTH)
        to_input, to_delta = aligned(EVERY * WIDTH), aligned(EVERY * WIDTH)
        decay, before = aligned(EVERY * WIDTH), aligned(EVERY * WIDTH)
        bs, cs = aligned(EVERY * states), aligned(EVERY * states)
        sums_b, sums_c = aligned(EVERY * states * WIDTH), aligned(EVERY * states * WIDTH)
        g = aligned(BLOCK * states)
        for s in range(groups[group], groups[group + 1]):
            g[:] = np.float32(0.0)
            length = offsets[s + 1] - offsets[s]
            for chunk in range((length - 1) // EVERY, -1, -1):
                start = chunk * EVERY
                steps = min(EVERY, length - start)
                step = -1 if reverse else 1
                first = offsets[s + 1] - 1 - start if reverse else offsets[s] + start
                _turn(b, first, step, steps, states, bs)
                _turn(c, first, step, steps, states, cs)
                sums_b[:] = np.float32(0.0)
                sums_c[:] = np.float32(0.0)
                for column in tiles:
                    skipped = load(dd[group], column)
                    for k in range(steps):
                        t = (first + k * step) * channels + column
                        x, size, back = load(u, t), load(delta, t), load(dy, t)
                        store(size_of, k * WIDTH, size)
                        store(driven, k * WIDTH, size * x)
                        store(slope, k * WIDTH, back)
                        store(to_input, k * WIDTH, none)
                        store(to_delta, k * WIDTH, none)
                        skipped = fma(back, x, skipped)
                    store(dd[group], column, skipped)
                    at_chunk = ((kept_offsets[s] + chunk) * channels + column) * states
                    own = (column - block * BLOCK) * states
                    for n in range(states):
                        a = load(at, n * channels + column)
                        last = _rerun_state(
                            a, load(kept, at_chunk + n * WIDTH), steps, size_of, driven, bs, n, decay, before
                        )
                        to_state, to_a = _back_state(
                            a, last, load(g, own + n * WIDTH), steps, size_of, driven, slope, bs, cs, n, decay, before,
                            to_input, to_delta, sums_b, sums_c,
                        )  # fmt: skip
                        store(g, own + n * WIDTH, to_state)
                        lane = column * states + n * WIDTH
                        store(da[group], lane, load(da[group], lane) + to_a)
                    skip, ln2 = load(d, column), spread(np.float32(LN2))
                    for k in range(steps):
                        t, lane = (first + k * step) * channels + column, k * WIDTH
                        x, through = load(u, t), load(to_input, lane)
                        store(du, t, fma(skip, load(slope, lane), load(size_of, lane) * through))
                        store(ddelta, t, fma(ln2, load(to_delta, lane), x * through))
                _add_lanes(sums_b, db[block], first, step, steps, states)
                _add_lanes(sums_c, dc[block], first, step, steps, states)


def _group(offsets: np.ndarray) -> np.ndarray:
    """Boundaries of at most `GROUPS` runs of sequences with about equal tokens; depends on the lengths alone."""
    count = len(offsets) - 1
    targets = offsets[-1] * np.arange(1, min(GROUPS, count)) // min(GROUPS, count)
    cuts = np.unique(np.searchsorted(offsets, targets))
    return np.unique(np.concatenate([[0], cuts, [count]])).astype(np.int64)


def _flat(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [x.detach().contiguous().view(-1).numpy() for x in tensors]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, offsets: Any, reverse: bool, keep: bool
    ) -> Any:
        """y, shape (T, C); see `model.scan.selective_scan`."""
        ends = offsets.numpy()
        spare = -u.shape[1] % WIDTH  # channels up to a whole register: they stay zero
        u, delta, D = (F.pad(x.detach(), (0, spare)) if spare else x for x in (u, delta, D))
        at = F.pad(A.detach().t() * LOG2E, (0, spare)).contiguous()
        chunks = -(-np.diff(ends) // EVERY)
        kept_offsets = np.concatenate([[0], np.cumsum(chunks)])
        kept = torch.empty(int(kept_offsets[-1]) * at.numel() if keep else 0)
        y = torch.empty(u.shape)
        plan = (ends, _group(ends), kept_offsets, reverse)
        _forward(*_flat(u, delta, at, B, C, D), *plan, *_flat(y, kept))
        ctx.save_for_backward(u, delta, at, B, C, D, kept)
        ctx.plan, ctx.channels = plan, len(A)
        return y[:, : len(A)] if spare else y

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        """Gradients of u, delta, A, B, C and D."""
        u, delta, at, B, C, D, kept = ctx.saved_tensors
        (tokens, padded), states, channels = u.shape, len(at), ctx.channels
        groups, blocks = len(ctx.plan[1]) - 1, -(-padded // BLOCK)
        if padded > channels:
            dy = F.pad(dy, (0, padded - channels))
        du, ddelta = torch.empty(u.shape), torch.empty(u.shape)
        da, dd = torch.zeros(groups, padded * states), torch.zeros(groups, padded)
        db, dc = torch.empty(blocks, tokens * states), torch.empty(blocks, tokens * states)
        partial = [x.numpy() for x in (da, db, dc, dd)]
        _backward(*_flat(dy, u, delta, at, B, C, D), *ctx.plan, *_flat(kept, du, ddelta), *partial)
        da = da.sum(0).view(-1, states, WIDTH).transpose(1, 2).reshape(padded, states)[:channels]
        db, dc = db.sum(0).view_as(B), dc.sum(0).view_as(C)
        return du[:, :channels], ddelta[:, :channels], da, db, dc, dd.sum(0)[:channels], None, None, None


def scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, offsets: Any, reverse: bool) -> torch.Tensor:
    """`model.scan.selective_scan` for float32 tensors on the CPU."""
    # Inside forward() gradients are always off, and needs_input_grad is set for parameters even under no_grad.
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (u, delta, A, B, C, D))
    y: torch.Tensor = _Scan.apply(u, delta, A, B, C, D, offsets, reverse, keep)
    return y
