"""Kernel of a BiMamba block forward: from the input's tokens to the output's, a run of sequences at a time.

A run's tokens go through in parts that stay in the second-level cache; only the scan takes the whole run.  Saved for
backward is what a product or the scan gave; what a function of single values gives is computed again.

Legend as in `crossllm.model.bimamba`: T packed tokens, M model width, C channels, N state, R rank of Δ, W taps; P is
R + 2 N up to whole registers.  M and C are whole registers.  Arrays are flat, in C order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from crossllm.kernels import kernel
from crossllm.model.fused.lanes import at, floats, product, sigmoid, softplus
from crossllm.model.scan.numba_conv import window_sum
from crossllm.model.scan.numba_kernels import BLOCK, run
from crossllm.model.scan.simd import LOG2E, WIDTH, aligned, exp2, fma, load, spread, store, total

INLINED = {"lanes": "3d18f446", "numba_conv": "7dccb3d6", "numba_kernels": "83627e58", "simd": "f2b449f9"}
"""As in `crossllm.model.scan.numba_kernels`."""
PART = 64
"""Tokens of a part."""


@njit(error_model="numpy")
def transposed(x, rows, columns, width):
    """X (rows, columns) → (columns, width), zero beyond its rows."""
    y = aligned(columns * width)
    y[:] = np.float32(0.0)
    for i in range(rows):
        for j in range(columns):
            y[j * width + i] = x[i * columns + j]
    return y


@njit(error_model="numpy")
def slopes_of(log_a, channels, states):
    """A·log₂e (N, C) of A_log (C, N)."""
    slopes = transposed(log_a, channels, states, channels)
    for place in range(0, len(slopes), WIDTH):
        store(slopes, place, exp2(load(slopes, place) * spread(LOG2E)) * spread(-LOG2E))
    return slopes


@njit(error_model="numpy")
def pieces(saved, sizes):
    """What forward saves: what the convolution reads, what it gives, z, Δ and y, (T, C); low (T, R), B, C (T, N)."""
    tokens, _, channels, states, rank, _ = sizes
    whole, row = tokens * channels, tokens * states
    low = 5 * whole
    b = low + tokens * rank
    c = b + row
    return (
        saved[:whole], saved[whole : 2 * whole], saved[2 * whole : 3 * whole], saved[3 * whole : 4 * whole],
        saved[4 * whole : low], saved[low:b], saved[b:c], saved[c : c + row],
    )  # fmt: skip


@njit(error_model="numpy")
def _convolve(before, taps, bias, reach, sign, first, stop, channels, width, mixed, u):
    """The convolution of some tokens, and u = silu of it; `reach` (T,) says how far a token's window may look."""
    for t in range(first, stop):
        far = min(width - 1, reach[t])
        for column in range(0, channels, WIDTH):
            sum_ = window_sum(load(bias, column), before, taps, t, -sign, far, column, channels, width)
            store(mixed, t * channels + column, sum_)
            store(u, t * channels + column, sum_ * sigmoid(sum_))


@njit(error_model="numpy")
def _step_sizes(chosen, padded, widen, bias, first, stop, sizes, low, b, c, delta):
    """Δ = softplus(W low + bias) of some tokens, and B and C out of the same rows of `chosen` (part, P)."""
    _, _, channels, states, rank, _ = sizes
    for t in range(first, stop):
        row = (t - first) * padded
        low[t * rank : (t + 1) * rank] = chosen[row : row + rank]
        b[t * states : (t + 1) * states] = chosen[row + rank : row + rank + states]
        c[t * states : (t + 1) * states] = chosen[row + rank + states : row + rank + 2 * states]
        for column in range(0, channels, WIDTH):
            sum_ = load(bias, column)
            for r in range(rank):
                sum_ = fma(at(chosen, row + r), load(widen, r * channels + column), sum_)
            store(delta, t * channels + column, softplus(sum_))


@njit(error_model="numpy")
def _project(y, z, project, first, stop, channels, model, gated, out):
    """Out += (y ⊙ silu(z)) W of some tokens."""
    for t in range(first, stop):
        for column in range(0, channels, WIDTH):
            gate = load(z, t * channels + column)
            value = load(y, t * channels + column) * gate * sigmoid(gate)
            store(gated, (t - first) * channels + column, value)
    rows = stop - first, channels, model
    product((gated, 0, channels, 1), (project, 0, model), (out, first * model, model), rows, True)


@njit(error_model="numpy")
def moments(x, row, model, floor):
    """Mean of a row, and 1/√(variance + floor)."""
    sum_ = spread(0.0)
    for column in range(0, model, WIDTH):
        sum_ = sum_ + load(x, row + column)
    mean = total(sum_) / np.float32(model)
    squares, centre = spread(0.0), spread(mean)
    for column in range(0, model, WIDTH):
        apart = load(x, row + column) - centre
        squares = fma(apart, apart, squares)
    return mean, np.float32(1.0) / np.sqrt(total(squares) / np.float32(model) + np.float32(floor))


@njit(error_model="numpy")
def _normalise(x, gamma, beta, floor, first, stop, model, normed, out):
    """LayerNorm of some tokens; the output starts as the residual, which is x."""
    for t in range(first, stop):
        mean, scale = moments(x, t * model, model, floor)
        for column in range(0, model, WIDTH):
            own = load(x, t * model + column)
            store(out, t * model + column, own)
            own = (own - spread(mean)) * spread(scale)
            store(normed, t * model + column, fma(own, load(gamma, column), load(beta, column)))


@njit(error_model="numpy")
def _weights(addresses, sizes):
    """Of one direction, turned so that channels come last."""
    _, model, channels, states, rank, width = sizes
    selects = rank + 2 * states
    return (
        transposed(floats(addresses[0], 2 * channels * model), 2 * channels, model, 2 * channels),
        transposed(floats(addresses[1], channels * width), channels, width, channels),
        floats(addresses[2], channels),
        transposed(floats(addresses[3], selects * channels), selects, channels, -(-selects // WIDTH) * WIDTH),
        transposed(floats(addresses[4], channels * rank), channels, rank, channels),
        floats(addresses[5], channels),
        slopes_of(floats(addresses[6], channels * states), channels, states),
        floats(addresses[7], channels),
        transposed(floats(addresses[8], model * channels), model, channels, model),
    )


@njit(error_model="numpy")
def _direct(x, weights, sizes, offsets, sequences, chunks, reach, reverse, saved, kept, u, out):
    """One direction of a run of sequences: x (T, M), normed, and what is added to the output."""
    into, taps, bias, choose, widen, widen_bias, slopes, skip, project = weights
    _, model, channels, states, rank, width = sizes
    padded = -(-(rank + 2 * states) // WIDTH) * WIDTH
    before, mixed, z, delta, y, low, b, c = saved
    chosen, gated, none = aligned(PART * padded), aligned(PART * channels), np.empty(0, np.float32)
    first, stop = offsets[sequences[0]], offsets[sequences[1]]
    parts = -(-(stop - first) // PART)
    for n in range(parts):  # in the order of the scan: a window looks back
        start = first + (parts - 1 - n if reverse else n) * PART
        end = min(start + PART, stop)
        place, rows = start * channels, end - start
        own = (x, start * model, model, 1)
        for half, result in ((0, before), (channels, z)):
            product(own, (into, half, 2 * channels), (result, place, channels), (rows, model, channels), False)
        _convolve(before, taps, bias, reach, -1 if reverse else 1, start, end, channels, width, mixed, u)
        product((u, place, channels, 1), (choose, 0, padded), (chosen, 0, padded), (rows, channels, padded), False)
        _step_sizes(chosen, padded, widen, widen_bias, start, end, sizes, low, b, c, delta)
    for left in range(0, channels, BLOCK):
        run(u, delta, slopes, b, c, skip, offsets, sequences, left, chunks, reverse, none, y, kept, none)
    for n in range(parts):
        start = first + n * PART
        _project(y, z, project, start, min(start + PART, stop), channels, model, gated, out)


@kernel(parallel=True, error_model="numpy")
def forward(addresses, ways, sizes, floor, offsets, runs, chunks, around, keep):
    """Write the output of a block, and what backward is handed.

    Args:
        addresses: of x (T, M), the norm's weight and bias, and what is written: the output and the normed x (T, M).
        ways: of each direction the addresses of the weights, as `crossllm.model.fused.block.Weights` has them, and of
            what is written: `pieces`, and where `keep` the states before each chunk.  The same twice: one direction.
        sizes: T, M, C, N, R, W.
        floor: ε of the norm.
        offsets, runs, chunks: of `crossllm.model.scan.layout.Layout`.
        around: (T,) each, its `before` and `after`.
        keep: whether backward will be called.
    """
    tokens, model, channels, states, rank, _ = sizes
    x, gamma, beta = floats(addresses[0], tokens * model), floats(addresses[1], model), floats(addresses[2], model)
    out, normed = floats(addresses[3], tokens * model), floats(addresses[4], tokens * model)
    weights, other_weights = _weights(ways[0], sizes), _weights(ways[1], sizes)
    both, values, states_kept = ways[0][0] != ways[1][0], tokens * (5 * channels + rank + 2 * states), 0
    if keep:
        states_kept = chunks[-1] * channels * states
    saved, other_saved = pieces(floats(ways[0][9], values), sizes), pieces(floats(ways[1][9], values), sizes)
    kept, other_kept = floats(ways[0][10], states_kept), floats(ways[1][10], states_kept)
    u = np.empty(tokens * channels, np.float32)
    before, after = around
    for n in prange(len(runs) - 1):
        sequences = runs[n], runs[n + 1]
        _normalise(x, gamma, beta, floor, offsets[runs[n]], offsets[runs[n + 1]], model, normed, out)
        _direct(normed, weights, sizes, offsets, sequences, chunks, before, False, saved, kept, u, out)
        if both:
            _direct(
                normed, other_weights, sizes, offsets, sequences, chunks, after, True, other_saved, other_kept, u, out
            )
