"""Kernels of the selective scan's gradient on the CPU: the tasks of `numba_kernels`, gone through from the end."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from crossllm.kernels import kernel
from crossllm.model.scan.layout import EVERY
from crossllm.model.scan.numba_kernels import BLOCK, TILE, put, stretch, take
from crossllm.model.scan.simd import LN2, WIDTH, aligned, exp2, fma, load, prefetch, spread, store, total

INLINED = {"layout": "eb99df29", "numba_kernels": "83627e58", "simd": "f2b449f9"}
"""As in `crossllm.model.scan.numba_kernels`."""


@njit(error_model="numpy")
def _load_back(dy, u, delta, dd, column, channels, span, scratch):
    """A tile's rows of a chunk into the scratch; Δ·u, zeroed sums, and the gradient of D are made on the way."""
    first, step, steps = span
    dt, du, slope, to_input, to_delta = scratch[:5]
    none, to_d = spread(np.float32(0.0)), load(dd, column)
    for k in range(steps):
        t, lane = (first + k * step) * channels + column, k * WIDTH
        x, size, back = load(u, t), load(delta, t), load(dy, t)
        store(dt, lane, size)
        store(du, lane, size * x)
        store(slope, lane, back)
        store(to_input, lane, none)
        store(to_delta, lane, none)
        to_d = fma(back, x, to_d)
    store(dd, column, to_d)


@njit(error_model="numpy")
def _back_states(at, column, channels, states, span, scratch, b, c, kept, chunk, g, da, rows, coming):
    """All states of a tile back through a chunk; `g` (N, 16) goes from after it to before it, `da` is added to.

    The next tile's rows are fetched meanwhile, as in `crossllm.model.scan.numba_kernels`.
    """
    first, step, steps = span
    dt, driven, slope, to_input, to_delta, decay, before, sums_b, sums_c = scratch
    dy, u, delta, du, ddelta = rows
    share = -(-EVERY // states)
    for n in range(states):
        for k in range(n * share, min((n + 1) * share, steps)):
            row = coming + k * step * channels
            prefetch(dy, row)
            prefetch(u, row)
            prefetch(delta, row)
            prefetch(du, row)
            prefetch(ddelta, row)
        a, now = load(at, n * channels + column), load(kept, (chunk * channels + column) * states + n * WIDTH)
        for k in range(steps):  # the chunk's states again
            lane = k * WIDTH
            e = exp2(load(dt, lane) * a)
            store(decay, lane, e)
            store(before, lane, now)
            now = fma(e, now, load(driven, lane) * spread(b[(first + k * step) * states + n]))
        to_state, to_a = load(g, n * WIDTH), spread(np.float32(0.0))
        for k in range(steps - 1, -1, -1):
            lane, own, token = k * WIDTH, (n * EVERY + k) * WIDTH, (first + k * step) * states + n
            back, earlier = load(slope, lane), load(before, lane)
            store(sums_c, own, fma(back, now, load(sums_c, own)))
            to_state = fma(spread(c[token]), back, to_state)
            store(sums_b, own, fma(to_state, load(driven, lane), load(sums_b, own)))
            store(to_input, lane, fma(to_state, spread(b[token]), load(to_input, lane)))
            to_state = to_state * load(decay, lane)  # from here on of the state before this step
            through = to_state * earlier
            store(to_delta, lane, fma(through, a, load(to_delta, lane)))
            to_a = fma(through, load(dt, lane), to_a)
            now = earlier
        store(g, n * WIDTH, to_state)
        own = column * states + n * WIDTH
        store(da, own, load(da, own) + to_a)


@njit(error_model="numpy")
def _store_back(u, d, du, ddelta, column, channels, span, scratch):
    """A tile's rows of the gradients of u and Δ of one chunk."""
    first, step, steps = span
    dt, _, slope, to_input, to_delta = scratch[:5]
    ln2, skip = spread(np.float32(LN2)), load(d, column)
    for k in range(steps):
        t, lane = (first + k * step) * channels + column, k * WIDTH
        through = load(to_input, lane)
        store(du, t, fma(skip, load(slope, lane), load(dt, lane) * through))
        store(ddelta, t, fma(ln2, load(to_delta, lane), load(u, t) * through))


@njit(error_model="numpy")
def _add_lanes(sums, out, span, states):
    """Sum the lanes of (N, EVERY, 16) into rows of (T, N)."""
    first, step, steps = span
    for k in range(steps):
        for n in range(states):
            out[(first + k * step) * states + n] = total(load(sums, (n * EVERY + k) * WIDTH))


@njit(error_model="numpy")
def run_back(
    dy, dfinal, u, delta, at, b, c, d, offsets, sequences, left, kept_offsets, reverse, kept,
    du, ddelta, dfirst, da, db, dc, dd,
):  # fmt: skip
    """A task, as `crossllm.model.scan.numba_kernels.run` has it; da (C/16, N, 16) and dd (C,) are added to."""
    channels, states = len(d), len(at) // len(d)
    tiles = min(BLOCK, channels - left) // WIDTH
    sums_b, sums_c = aligned(states * TILE), aligned(states * TILE)
    copies = (aligned(TILE), aligned(TILE), aligned(TILE), aligned(TILE), aligned(TILE))
    scratch = (*copies, aligned(TILE), aligned(TILE), sums_b, sums_c)
    held = aligned(BLOCK * states)
    for s in range(sequences[0], sequences[1]):
        take(dfinal, s, left, tiles, channels, states, held)
        length = offsets[s + 1] - offsets[s]
        for chunk in range((length - 1) // EVERY, -1, -1):
            span = first, step, steps = stretch(offsets, s, chunk * EVERY, reverse)
            for n in range(states):
                sums_b[n * TILE : n * TILE + steps * WIDTH] = np.float32(0.0)
                sums_c[n * TILE : n * TILE + steps * WIDTH] = np.float32(0.0)
            for i in range(tiles):
                column, g = left + i * WIDTH, held[i * WIDTH * states :]
                _load_back(dy, u, delta, dd, column, channels, span, scratch)
                coming = (first - EVERY * step) * channels + left
                if i < tiles - 1:
                    coming = first * channels + column + WIDTH
                rows, at_chunk = (dy, u, delta, du, ddelta), kept_offsets[s] + chunk
                _back_states(at, column, channels, states, span, scratch, b, c, kept, at_chunk, g, da, rows, coming)
                _store_back(u, d, du, ddelta, column, channels, span, scratch)
            _add_lanes(sums_b, db, span, states)
            _add_lanes(sums_c, dc, span, states)
        put(held, s, left, tiles, channels, states, dfirst)


@kernel(parallel=True, error_model="numpy")
def backward(
    dy, dfinal, u, delta, at, b, c, d, offsets, groups, kept_offsets, reverse, kept,
    du, ddelta, dfirst, da, db, dc, dd,
):  # fmt: skip
    """Gradients; da (G, C/16, N, 16), dd (G, C), db and dc (blocks, T·N) are partial sums, added up by the caller.

    `dfinal`, the gradient of the states after the sequences, and `dfirst`, of those before, are (S, N, C) or empty.
    """
    blocks = -(-len(d) // BLOCK)
    for task in prange(blocks * (len(groups) - 1)):
        block, group = task % blocks, task // blocks
        sequences = groups[group], groups[group + 1]
        run_back(
            dy, dfinal, u, delta, at, b, c, d, offsets, sequences, block * BLOCK, kept_offsets, reverse, kept,
            du, ddelta, dfirst, da[group], db[block], dc[block], dd[group],
        )  # fmt: skip
