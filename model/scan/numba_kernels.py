"""Kernels of the selective scan on the CPU: sixteen channels a register, threads over channels × sequences.

The paper's exp(ΔA) is 2^(ΔA·log₂e), the factor multiplied into A once.  A task takes a block of channels and a group of
sequences and goes through them in chunks of `EVERY` steps.  A chunk is done tile (16 channels) by tile, whose rows are
copied out first: a column of a wide matrix shares few sets of the cache.  Each state of the tile runs through all
steps before the next, so that it stays in a register.

`numba_kernels_backward` goes backward, with the same tasks.  Legend: T packed tokens, C channels (whole tiles), N
states, S sequences, G groups of sequences.  Arrays come flat, in C order, but for the partial sums; `numba_scan`
is the only caller.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from crossllm.kernels import kernel
from crossllm.model.scan.layout import EVERY
from crossllm.model.scan.simd import WIDTH, aligned, exp2, fma, load, prefetch, spread, store

INLINED = {"layout": "eb99df29", "simd": "f2b449f9"}
"""CRC-32 of files whose code is compiled into these kernels: Numba's cache sees this file alone.  A test keeps it."""
BLOCK = 128
"""Channels of a task: wider ones are 2 to 3 % faster (benchmarks/RESULTS.md), and too few for many cores."""
TILE = EVERY * WIDTH
"""Floats of a tile's rows of one chunk."""


@njit(error_model="numpy")
def stretch(offsets, s, start, reverse):
    """First token, direction and number of the steps of sequence s's chunk that begins at its step `start`."""
    steps = min(EVERY, offsets[s + 1] - offsets[s] - start)
    if reverse:
        return offsets[s + 1] - 1 - start, -1, steps
    return offsets[s] + start, 1, steps


@njit(error_model="numpy")
def _run_states(at, column, channels, states, span, dt, du, b, c, h, out, u, delta, y, coming):
    """All states of a tile through a chunk; `h` (N, 16) goes from before it to after it, `out` is added to.

    Meanwhile the next tile's rows, the first at index `coming`, are fetched, a share with each state: all at once they
    would wait for each other.
    """
    first, step, steps = span
    share = -(-EVERY // states)
    for n in range(states):
        for k in range(n * share, min((n + 1) * share, steps)):
            row = coming + k * step * channels
            prefetch(u, row)
            prefetch(delta, row)
            prefetch(y, row)
        a = load(at, n * channels + column)
        now = load(h, n * WIDTH)
        for k in range(steps):
            own = (first + k * step) * states + n
            now = fma(exp2(load(dt, k * WIDTH) * a), now, load(du, k * WIDTH) * spread(b[own]))
            store(out, k * WIDTH, fma(spread(c[own]), now, load(out, k * WIDTH)))
        store(h, n * WIDTH, now)


@njit(error_model="numpy")
def take(rows, s, left, tiles, channels, states, held):
    """A sequence's states from (S, N, C) into a task's tiles (C/16, N, 16); zero where `rows` is empty."""
    held[:] = np.float32(0.0)
    if len(rows):
        for i in range(tiles):
            for n in range(states):
                store(held, (i * states + n) * WIDTH, load(rows, (s * states + n) * channels + left + i * WIDTH))


@njit(error_model="numpy")
def put(held, s, left, tiles, channels, states, rows):
    """A task's tiles back into (S, N, C), unless that is empty."""
    if len(rows):
        for i in range(tiles):
            for n in range(states):
                store(rows, (s * states + n) * channels + left + i * WIDTH, load(held, (i * states + n) * WIDTH))


@njit(error_model="numpy")
def run(u, delta, at, b, c, d, offsets, sequences, left, kept_offsets, reverse, initial, y, kept, final):
    """A task: the channels from `left` on, of the sequences from the first of two numbers up to the second."""
    channels, states = len(d), len(at) // len(d)
    tiles = min(BLOCK, channels - left) // WIDTH
    dt, du, out = aligned(TILE), aligned(TILE), aligned(TILE)
    held = aligned(BLOCK * states)
    for s in range(sequences[0], sequences[1]):
        take(initial, s, left, tiles, channels, states, held)
        length = offsets[s + 1] - offsets[s]
        for start in range(0, length, EVERY):
            span = first, step, steps = stretch(offsets, s, start, reverse)
            if len(kept):
                at_chunk = ((kept_offsets[s] + start // EVERY) * channels + left) * states
                kept[at_chunk : at_chunk + tiles * WIDTH * states] = held[: tiles * WIDTH * states]
            for i in range(tiles):
                column, h = left + i * WIDTH, held[i * WIDTH * states :]
                skip = load(d, column)
                for k in range(steps):
                    t = (first + k * step) * channels + column
                    x, size = load(u, t), load(delta, t)
                    store(dt, k * WIDTH, size)
                    store(du, k * WIDTH, size * x)
                    store(out, k * WIDTH, skip * x)
                coming = (first + EVERY * step) * channels + left
                if i < tiles - 1:
                    coming = first * channels + column + WIDTH
                _run_states(at, column, channels, states, span, dt, du, b, c, h, out, u, delta, y, coming)
                for k in range(steps):
                    store(y, (first + k * step) * channels + column, load(out, k * WIDTH))
        put(held, s, left, tiles, channels, states, final)


@kernel(parallel=True, error_model="numpy")
def forward(u, delta, at, b, c, d, offsets, groups, kept_offsets, reverse, initial, y, kept, final):
    """Y (T, C); at is (N, C).  Each of the others may be empty: `initial` and `final` (S, N, C), the states before and
    after the sequences, and `kept` (chunks, C/16, N, 16), those before each chunk.
    """
    blocks = -(-len(d) // BLOCK)
    for task in prange(blocks * (len(groups) - 1)):
        left, group = task % blocks * BLOCK, task // blocks
        sequences = groups[group], groups[group + 1]
        run(u, delta, at, b, c, d, offsets, sequences, left, kept_offsets, reverse, initial, y, kept, final)


@njit(error_model="numpy")
def _reach_states(at, column, channels, states, span, dt, gates, c, h):
    """All states of a tile back through a chunk: what the gated outputs from here on take from the state before it."""
    first, step, steps = span
    for n in range(states):
        a = load(at, n * channels + column)
        now = load(h, n * WIDTH)
        for k in range(steps - 1, -1, -1):
            own = (first + k * step) * states + n
            now = exp2(load(dt, k * WIDTH) * a) * fma(spread(c[own]), load(gates, k * WIDTH), now)
        store(h, n * WIDTH, now)


@kernel(parallel=True, error_model="numpy")
def reach(gate, delta, at, c, offsets, groups, channels, reverse, out):
    """W (S, N, C), what Σ_t gate_t y_t of a sequence takes from the state before it: Σ_t gate_t C_t Π_{s ≤ t} Ā_s."""
    states = len(at) // channels
    blocks = -(-channels // BLOCK)
    for task in prange(blocks * (len(groups) - 1)):
        block, group = task % blocks, task // blocks
        left = block * BLOCK
        tiles = min(BLOCK, channels - left) // WIDTH
        dt, gates = aligned(TILE), aligned(TILE)
        held = aligned(BLOCK * states)
        for s in range(groups[group], groups[group + 1]):
            held[:] = np.float32(0.0)
            length = offsets[s + 1] - offsets[s]
            for chunk in range((length - 1) // EVERY, -1, -1):
                span = first, step, steps = stretch(offsets, s, chunk * EVERY, reverse)
                for i in range(tiles):
                    column, h = left + i * WIDTH, held[i * WIDTH * states :]
                    for k in range(steps):
                        t = (first + k * step) * channels + column
                        store(dt, k * WIDTH, load(delta, t))
                        store(gates, k * WIDTH, load(gate, t))
                    _reach_states(at, column, channels, states, span, dt, gates, c, h)
            put(held, s, left, tiles, channels, states, out)
