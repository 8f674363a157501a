"""Kernels of the selective scan on the CPU: sixteen channels a register, threads over channels × sequences.

The paper's exp(ΔA) is 2^(ΔA·log₂e), the factor multiplied into A once.  A task takes a block of channels and a group of
sequences and goes through them in chunks of `EVERY` steps; inside a chunk each state of a tile (16 channels) runs
through all steps before the next, so that it stays in a register.

`model.scan_kernels_back` goes backward, with the same tasks.  Legend: T packed tokens, C channels (whole tiles), N
states, S sequences, G groups of sequences.  Arrays come flat, in C order, but for the partial sums; `model.scan_numba`
is the only caller.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from model.scan_lanes import WIDTH, aligned, exp2, fma, load, spread, store

INLINED = {"scan_lanes": "bbd547fa"}
"""CRC-32 of files whose code is compiled into these kernels: Numba's cache sees this file alone.  A test keeps it."""
BLOCK = 128
"""Channels of a task: 512 bytes of a row at once, which the memory's prefetching wants."""
EVERY = 32
"""Steps of a chunk: what backward keeps of one state, 2 · 32 registers, stays in the first-level cache."""
TILE = (EVERY + 1) * WIDTH
"""Floats from a tile of a chunk's rows to the next; one more step than needed, or all tiles would share cache sets."""


@njit(error_model="numpy")
def stretch(offsets, s, start, reverse):
    """First token, direction and number of the steps of sequence s's chunk that begins at its step `start`."""
    steps = min(EVERY, offsets[s + 1] - offsets[s] - start)
    if reverse:
        return offsets[s + 1] - 1 - start, -1, steps
    return offsets[s] + start, 1, steps


@njit(error_model="numpy")
def turn(rows, first, step, steps, states, out):
    """Rows of B or C of one chunk as (N, EVERY): a state's values one after the other."""
    for k in range(steps):
        for n in range(states):
            out[n * EVERY + k] = rows[(first + k * step) * states + n]


@njit(error_model="numpy")
def _run_states(at, column, channels, states, steps, dt, du, bs, cs, h, y):
    """All states of a tile through a chunk; `h` (N, 16) goes from before it to after it, `y` is added to."""
    for n in range(states):
        a = load(at, n * channels + column)
        now = load(h, n * WIDTH)
        for k in range(steps):
            driven = load(du, k * WIDTH) * spread(bs[n * EVERY + k])
            now = fma(exp2(load(dt, k * WIDTH) * a), now, driven)
            store(y, k * WIDTH, fma(spread(cs[n * EVERY + k]), now, load(y, k * WIDTH)))
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


@njit(parallel=True, cache=True, error_model="numpy")
def forward(u, delta, at, b, c, d, offsets, groups, kept_offsets, reverse, initial, y, kept, final):
    """Y (T, C); at is (N, C).  Each of the others may be empty: `initial` and `final` (S, N, C), the states before and
    after the sequences, and `kept` (chunks, C/16, N, 16), those before each chunk.
    """
    channels, states = len(d), len(at) // len(d)
    blocks = -(-channels // BLOCK)
    for task in prange(blocks * (len(groups) - 1)):
        block, group = task % blocks, task // blocks
        left = block * BLOCK
        tiles = min(BLOCK, channels - left) // WIDTH
        dt, du, out = aligned(tiles * TILE), aligned(tiles * TILE), aligned(tiles * TILE)
        bs, cs = aligned(EVERY * states), aligned(EVERY * states)
        held = aligned(BLOCK * states)
        for s in range(groups[group], groups[group + 1]):
            take(initial, s, left, tiles, channels, states, held)
            length = offsets[s + 1] - offsets[s]
            for start in range(0, length, EVERY):
                first, step, steps = stretch(offsets, s, start, reverse)
                turn(b, first, step, steps, states, bs)
                turn(c, first, step, steps, states, cs)
                for k in range(steps):
                    t = (first + k * step) * channels + left
                    for i in range(tiles):
                        lane = i * TILE + k * WIDTH
                        x, size = load(u, t + i * WIDTH), load(delta, t + i * WIDTH)
                        store(dt, lane, size)
                        store(du, lane, size * x)
                        store(out, lane, load(d, left + i * WIDTH) * x)
                if len(kept):
                    at_chunk = ((kept_offsets[s] + start // EVERY) * channels + left) * states
                    kept[at_chunk : at_chunk + tiles * WIDTH * states] = held[: tiles * WIDTH * states]
                for i in range(tiles):
                    _run_states(
                        at,
                        left + i * WIDTH,
                        channels,
                        states,
                        steps,
                        dt[i * TILE :],
                        du[i * TILE :],
                        bs,
                        cs,
                        held[i * WIDTH * states :],
                        out[i * TILE :],
                    )
                for k in range(steps):
                    t = (first + k * step) * channels + left
                    for i in range(tiles):
                        store(y, t + i * WIDTH, load(out, i * TILE + k * WIDTH))
            put(held, s, left, tiles, channels, states, final)


@njit(error_model="numpy")
def _reach_states(at, column, channels, states, steps, dt, gate, cs, h):
    """All states of a tile back through a chunk: what the gated outputs from here on take from the state before it."""
    for n in range(states):
        a = load(at, n * channels + column)
        now = load(h, n * WIDTH)
        for k in range(steps - 1, -1, -1):
            now = exp2(load(dt, k * WIDTH) * a) * fma(spread(cs[n * EVERY + k]), load(gate, k * WIDTH), now)
        store(h, n * WIDTH, now)


@njit(parallel=True, cache=True, error_model="numpy")
def reach(gate, delta, at, c, offsets, groups, channels, reverse, out):
    """W (S, N, C), what Σ_t gate_t y_t of a sequence takes from the state before it: Σ_t gate_t C_t Π_{s ≤ t} Ā_s."""
    states = len(at) // channels
    blocks = -(-channels // BLOCK)
    for task in prange(blocks * (len(groups) - 1)):
        block, group = task % blocks, task // blocks
        left = block * BLOCK
        tiles = min(BLOCK, channels - left) // WIDTH
        dt, gates, cs = aligned(tiles * TILE), aligned(tiles * TILE), aligned(EVERY * states)
        held = aligned(BLOCK * states)
        for s in range(groups[group], groups[group + 1]):
            held[:] = np.float32(0.0)
            length = offsets[s + 1] - offsets[s]
            for chunk in range((length - 1) // EVERY, -1, -1):
                start = chunk * EVERY
                first, step, steps = stretch(offsets, s, start, reverse)
                turn(c, first, step, steps, states, cs)
                for k in range(steps):
                    t = (first + k * step) * channels + left
                    for i in range(tiles):
                        lane = i * TILE + k * WIDTH
                        store(dt, lane, load(delta, t + i * WIDTH))
                        store(gates, lane, load(gate, t + i * WIDTH))
                for i in range(tiles):
                    column, h = left + i * WIDTH, held[i * WIDTH * states :]
                    _reach_states(at, column, channels, states, steps, dt[i * TILE :], gates[i * TILE :], cs, h)
            put(held, s, left, tiles, channels, states, out)
