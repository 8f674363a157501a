"""Kernel of a BiMamba block backward: from the output's gradient to those of the input and of all weights.

The legend, the parts and the runs are those of `crossllm.model.fused.forward`.  Gradients of weights are summed by run,
and the runs' sums in their order: the same input gives the same bits, whatever the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from crossllm.kernels import kernel
from crossllm.model.fused.forward import PART, moments, pieces, slopes_of, transposed
from crossllm.model.fused.lanes import at, floats, product, sigmoid, silu_slope
from crossllm.model.scan.numba_conv import window_sum
from crossllm.model.scan.numba_kernels import BLOCK
from crossllm.model.scan.numba_kernels_backward import run_back
from crossllm.model.scan.simd import LN2, WIDTH, aligned, fma, load, spread, store, total

INLINED = {
    "forward": "7bad6ea3",
    "lanes": "3d18f446",
    "numba_conv": "7dccb3d6",
    "numba_kernels": "83627e58",
    "numba_kernels_backward": "09b4c1e7",
    "simd": "f2b449f9",
}
"""As in `crossllm.model.scan.numba_kernels`."""


@njit(error_model="numpy")
def _slices(sums, sizes):
    """By weight, in the order of `Weights`; a run's are summed with the channels last: taps (W, C), dt_proj (R, C)."""
    _, model, channels, states, rank, width = sizes
    a = 2 * channels * model
    b = a + width * channels
    c = b + channels
    d = c + (rank + 2 * states) * channels
    e = d + rank * channels
    f = e + channels
    g = f + channels * states
    h = g + channels
    return sums[:a], sums[a:b], sums[b:c], sums[c:d], sums[d:e], sums[e:f], sums[f:g], sums[g:h], sums[h:]


@njit(error_model="numpy")
def _from_output(dout, project, saved, first, stop, sizes, scratch, to_project, dy, dz, u):
    """Of some tokens: gradients of y and z, and the sums for out_proj; u again."""
    _, model, channels = sizes[:3]
    _, mixed, z, _, y = saved[:5]
    slope, gated = scratch
    rows, start = stop - first, first * model
    product((dout, start, model, 1), (project, 0, channels), (slope, 0, channels), (rows, model, channels), False)
    for t in range(first, stop):
        for column in range(0, channels, WIDTH):
            place, own = t * channels + column, (t - first) * channels + column
            raw, value, back = load(z, place), load(y, place), load(slope, own)
            open_ = sigmoid(raw)
            gate = raw * open_
            store(gated, own, value * gate)
            store(dy, place, back * gate)
            store(dz, place, back * value * silu_slope(raw, open_))
            raw = load(mixed, place)
            store(u, place, raw * sigmoid(raw))
    product((dout, start, 1, model), (gated, 0, channels), (to_project, 0, channels), (model, rows, channels), True)


@njit(error_model="numpy")
def _scan_back(dy, u, saved, slopes, skip, offsets, sequences, chunks, reverse, kept, du, ddelta, da, db, dc, dd):
    """The scan's gradients of a run; those of B and C are summed over the blocks of channels."""
    delta, b, c = saved[3], saved[6], saved[7]
    channels, states, none = len(skip), len(slopes) // len(skip), np.empty(0, np.float32)
    first, stop = offsets[sequences[0]] * states, offsets[sequences[1]] * states
    for left in range(0, channels, BLOCK):
        own_b, own_c = db, dc
        if left > 0:
            own_b, own_c = np.empty(stop, np.float32), np.empty(stop, np.float32)
        run_back(
            dy, none, u, delta, slopes, b, c, skip, offsets, sequences, left, chunks, reverse, kept,
            du, ddelta, none, da, own_b, own_c, dd,
        )  # fmt: skip
        if left > 0:
            db[first:stop] += own_b[first:stop]
            dc[first:stop] += own_c[first:stop]


@njit(error_model="numpy")
def _from_scan(ddelta, db, dc, widen, bias, low, first, stop, padded, sizes, to_widen, to_bias, to_chosen):
    """Of some tokens: gradients of the rows that select, `to_chosen` (part, P), and the sums for dt_proj."""
    _, _, channels, states, rank, _ = sizes
    for t in range(first, stop):
        row = (t - first) * padded
        to_chosen[row + rank : row + rank + states] = db[t * states : (t + 1) * states]
        to_chosen[row + rank + states : row + rank + 2 * states] = dc[t * states : (t + 1) * states]
        for r in range(rank):
            to_chosen[row + r] = np.float32(0.0)
        for column in range(0, channels, WIDTH):
            # The slope of softplus is a sigmoid; of what came out of it, 1 − e^−Δ, little is left where Δ is small.
            raw = load(bias, column)
            for r in range(rank):
                raw = fma(at(low, t * rank + r), load(widen, r * channels + column), raw)
            slope = load(ddelta, t * channels + column) * sigmoid(raw)
            store(to_bias, column, load(to_bias, column) + slope)
            for r in range(rank):
                own = r * channels + column
                store(to_widen, own, fma(at(low, t * rank + r), slope, load(to_widen, own)))
                to_chosen[row + r] += total(slope * load(widen, own))


@njit(error_model="numpy")
def _through_silu(du, mixed, first, stop):
    """The gradient of what the convolution gave, in place of that of u."""
    for place in range(first, stop, WIDTH):
        raw = load(mixed, place)
        store(du, place, load(du, place) * silu_slope(raw, sigmoid(raw)))


@njit(error_model="numpy")
def _through_window(dmixed, before, taps, around, sign, first, stop, channels, width, dbefore, to_taps, to_bias):
    """Of some tokens: gradients of what the convolution reads, and the sums for its weights."""
    reach, ahead = around
    for t in range(first, stop):
        near, far = min(width - 1, reach[t]), min(width - 1, ahead[t])
        for column in range(0, channels, WIDTH):
            own = load(dmixed, t * channels + column)
            store(to_bias, column, load(to_bias, column) + own)
            sum_ = window_sum(spread(0.0), dmixed, taps, t, sign, far, column, channels, width)
            store(dbefore, t * channels + column, sum_)
            for shift in range(near + 1):
                place = (width - 1 - shift) * channels + column
                row = load(before, (t - sign * shift) * channels + column)
                store(to_taps, place, fma(own, row, load(to_taps, place)))


@njit(error_model="numpy")
def _direct_back(
    dout, x, weights, sizes, offsets, sequences, chunks, around, reverse, saved, kept, scratch, sums, dx, added
):  # fmt: skip
    """One direction of a run of sequences: what it adds to the gradient of the normed x, and to the weights' sums."""
    into, taps, choose, widen, widen_bias, slopes, skip, project = weights
    _, model, channels, states, rank, width = sizes
    selects = rank + 2 * states
    padded = -(-selects // WIDTH) * WIDTH
    to_into, to_taps, to_bias, to_choose, to_widen, to_widen_bias, da, dd, to_project = _slices(sums, sizes)
    dy, dz, u, du, ddelta, dbefore, db, dc = scratch
    before, mixed = saved[0], saved[1]
    own, to_chosen = (aligned(PART * channels), aligned(PART * channels)), aligned(PART * padded)
    first, stop = offsets[sequences[0]], offsets[sequences[1]]
    parts = -(-(stop - first) // PART)
    for n in range(parts):
        start = first + n * PART
        _from_output(dout, project, saved, start, min(start + PART, stop), sizes, own, to_project, dy, dz, u)
    _scan_back(dy, u, saved, slopes, skip, offsets, sequences, chunks, reverse, kept, du, ddelta, da, db, dc, dd)
    for n in range(parts):  # against the order of the scan: a window's gradient comes from ahead
        start = first + (n if reverse else parts - 1 - n) * PART
        end = min(start + PART, stop)
        rows, place, row = end - start, start * channels, (start * model, model)
        selected = start, end, padded, sizes, to_widen, to_widen_bias, to_chosen
        _from_scan(ddelta, db, dc, widen, widen_bias, saved[5], *selected)
        whole = (selects, rows, channels)
        product((to_chosen, 0, 1, padded), (u, place, channels), (to_choose, 0, channels), whole, True)
        whole = (rows, selects, channels)
        product((to_chosen, 0, padded, 1), (choose, 0, channels), (du, place, channels), whole, True)
        _through_silu(du, mixed, place, end * channels)
        sign = -1 if reverse else 1
        _through_window(du, before, taps, around, sign, start, end, channels, width, dbefore, to_taps, to_bias)
        for half, slope in ((0, dbefore), (channels * model, dz)):
            product((slope, place, 1, channels), (x, *row), (to_into, half, model), (channels, rows, model), True)
            more = added or half > 0
            product((slope, place, channels, 1), (into, half, model), (dx, *row), (rows, channels, model), more)


@njit(error_model="numpy")
def _through_norm(dout, x, gamma, floor, first, stop, model, dx, to_gamma, to_beta):
    """Of some tokens the gradient of x, in place of that of the normed x; the residual's is the output's."""
    for t in range(first, stop):
        row = t * model
        mean, scale = moments(x, row, model, floor)
        centre, size = spread(mean), spread(scale)
        sum_ = along = spread(0.0)
        for column in range(0, model, WIDTH):
            back, own = load(dx, row + column), (load(x, row + column) - centre) * size
            store(to_gamma, column, fma(back, own, load(to_gamma, column)))
            store(to_beta, column, load(to_beta, column) + back)
            back = back * load(gamma, column)
            sum_, along = sum_ + back, fma(back, own, along)
        level, tilt = spread(total(sum_) / np.float32(model)), spread(total(along) / np.float32(model))
        for column in range(0, model, WIDTH):
            back, own = load(dx, row + column) * load(gamma, column), (load(x, row + column) - centre) * size
            store(dx, row + column, fma(back - level - own * tilt, size, load(dout, row + column)))


@njit(error_model="numpy")
def _collect(sums, slopes, sizes, addresses):
    """A direction's sums as torch lays the weights out; A's becomes that of A_log."""
    _, _, channels, states, rank, width = sizes
    parts = _slices(sums, sizes)
    for n in range(len(parts)):
        to_weight = floats(addresses[n], len(parts[n]))
        if n == 1:
            _turn(parts[n], width, channels, to_weight)
        elif n == 4:
            _turn(parts[n], rank, channels, to_weight)
        elif n == 6:
            for c in range(channels):
                for state in range(states):
                    own = parts[n][(c // WIDTH * states + state) * WIDTH + c % WIDTH]
                    to_weight[c * states + state] = own * slopes[state * channels + c] * np.float32(LN2)
        else:
            to_weight[:] = parts[n]


@njit(error_model="numpy")
def _finish(sums, count, slopes, sizes, gradients, both, dgamma, dbeta):
    """All sums of the runs, added up.  A function, since Numba may move what stands beside a parallel loop."""
    whole, model = sums[0], len(dgamma)
    for n in range(1, len(sums)):
        whole += sums[n]
    _collect(whole[:count], slopes[0], sizes, gradients[0])
    if both:
        _collect(whole[count : 2 * count], slopes[1], sizes, gradients[1])
    dgamma[:] = whole[2 * count : 2 * count + model]
    dbeta[:] = whole[2 * count + model :]


@njit(error_model="numpy")
def _turn(x, rows, columns, y):
    """X (rows, columns) → y (columns, rows)."""
    for i in range(rows):
        for j in range(columns):
            y[j * rows + i] = x[i * columns + j]


@njit(error_model="numpy")
def _weights(addresses, sizes):
    """Of one direction, those that backward reads."""
    _, model, channels, states, rank, width = sizes
    return (
        floats(addresses[0], 2 * channels * model),
        transposed(floats(addresses[1], channels * width), channels, width, channels),
        floats(addresses[3], (rank + 2 * states) * channels),
        transposed(floats(addresses[4], channels * rank), channels, rank, channels),
        floats(addresses[5], channels),
        slopes_of(floats(addresses[6], channels * states), channels, states),
        floats(addresses[7], channels),
        floats(addresses[8], model * channels),
    )


@njit(error_model="numpy")
def _scratch(tokens, channels, states):
    """Gradients of y, z, u (once u itself), Δ and what the convolution reads (T, C), and of B and C (T, N)."""
    whole, row = tokens * channels, tokens * states
    return (
        np.empty(whole, np.float32), np.empty(whole, np.float32), np.empty(whole, np.float32),
        np.empty(whole, np.float32), np.empty(whole, np.float32), np.empty(whole, np.float32),
        np.empty(row, np.float32), np.empty(row, np.float32),
    )  # fmt: skip


@kernel(parallel=True, error_model="numpy")
def backward(addresses, ways, gradients, sizes, floor, offsets, runs, chunks, around):
    """Write the gradients of x (T, M) and of the weights.

    Args:
        addresses: of the output's gradient, x, the norm's weight and the normed x; what is written: the gradients of
            x and of the norm's weight and bias.
        ways, sizes, floor, offsets, runs, chunks, around: as `crossllm.model.fused.forward.forward` has them.
        gradients: addresses of those of each direction's weights.
    """
    tokens, model, channels, states, rank, width = sizes
    dout, x = floats(addresses[0], tokens * model), floats(addresses[1], tokens * model)
    gamma, normed = floats(addresses[2], model), floats(addresses[3], tokens * model)
    dx, dgamma, dbeta = floats(addresses[4], tokens * model), floats(addresses[5], model), floats(addresses[6], model)
    both, values = ways[0][0] != ways[1][0], tokens * (5 * channels + rank + 2 * states)
    weights, other_weights = _weights(ways[0], sizes), _weights(ways[1], sizes)
    saved, other_saved = pieces(floats(ways[0][9], values), sizes), pieces(floats(ways[1][9], values), sizes)
    states_kept = chunks[-1] * channels * states
    kept, other_kept = floats(ways[0][10], states_kept), floats(ways[1][10], states_kept)
    scratch = _scratch(tokens, channels, states)
    count = channels * (3 * model + width + 1 + rank + 2 * states + rank + 1 + states + 1)
    sums = np.zeros((len(runs) - 1, 2 * count + 2 * model), np.float32)
    before, after = around
    for n in prange(len(runs) - 1):
        sequences, own = (runs[n], runs[n + 1]), sums[n]
        _direct_back(
            dout, normed, weights, sizes, offsets, sequences, chunks, (before, after), False, saved, kept, scratch,
            own[:count], dx, False,
        )  # fmt: skip
        if both:
            _direct_back(
                dout, normed, other_weights, sizes, offsets, sequences, chunks, (after, before), True, other_saved,
                other_kept, scratch, own[count : 2 * count], dx, True,
            )  # fmt: skip
        first, stop = offsets[runs[n]], offsets[runs[n + 1]]
        norm = own[2 * count :]
        _through_norm(dout, x, gamma, floor, first, stop, model, dx, norm[:model], norm[model:])
    _finish(sums, count, (weights[5], other_weights[5]), sizes, gradients, both, dgamma, dbeta)
