"""Kernel for the pairs of `crossllm.model.factored_mixing` where nothing is learnt: what each direction adds up to.

A pair's state stays in registers, where torch's operations write it out and read it three times: it is as large as the
entity's own.  `factored_mixing._meet` says it operation by operation, and is taken where gradients are wanted.

Legend as there and in `crossllm.model.fused.forward`: P pairs, S entities, C channels, N state, R rank of Δ, W taps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numba import njit, prange
from torch import Tensor

from crossllm.kernels import kernel
from crossllm.model.fused.forward import slopes_of, transposed
from crossllm.model.fused.lanes import at, floats, product, sigmoid, softplus
from crossllm.model.scan.numba_call import addresses, use_threads
from crossllm.model.scan.numba_conv import window_sum
from crossllm.model.scan.simd import WIDTH, aligned, exp2, fma, load, spread, store

INLINED = {"forward": "7bad6ea3", "lanes": "3d18f446", "numba_conv": "7dccb3d6", "simd": "f2b449f9"}
"""As in `crossllm.model.scan.numba_kernels`."""
TOGETHER = 16
"""Pairs of a task: their products are one."""


@njit(error_model="numpy")
def _near(tail, head, first, second, taps, bias, steps, channels, near, u):
    """U of a pair's tokens between: the convolution sees the last tokens of one entity and the first of the other."""
    whole = steps * channels
    near[:whole], near[whole:] = tail[first * whole : (first + 1) * whole], head[second * whole : (second + 1) * whole]
    for k in range(steps):
        for column in range(0, channels, WIDTH):
            sum_ = window_sum(load(bias, column), near, taps, steps + k, -1, steps, column, channels, steps + 1)
            store(u, k * channels + column, sum_ * sigmoid(sum_))


@njit(error_model="numpy")
def _step_sizes(chosen, padded, widen, bias, inside, rank, steps, channels, delta):
    """Δ of a pair's tokens between; 0 where a shorter entity has none."""
    for k in range(steps):
        for column in range(0, channels, WIDTH):
            sum_ = load(bias, column)
            for r in range(rank):
                sum_ = fma(at(chosen, k * padded + r), load(widen, r * channels + column), sum_)
            store(delta, k * channels + column, softplus(sum_) * spread(inside[k]))


@njit(error_model="numpy")
def _meet(u, delta, chosen, padded, slopes, skip, state, reach, gate, rank, states, steps, channels, out):
    """Add to `out` (C,), the entities' own sums, what a pair has beside: the tokens between, and the state's reach."""
    sums = aligned(steps * WIDTH)
    for column in range(0, channels, WIDTH):
        own, rest = load(skip, column), load(out, column)
        for k in range(steps):
            store(sums, k * WIDTH, own * load(u, k * channels + column))
        for n in range(states):
            slope, now = load(slopes, n * channels + column), load(state, n * channels + column)
            for k in range(steps):
                size, row = load(delta, k * channels + column), k * padded + rank
                driven = size * load(u, k * channels + column) * at(chosen, row + n)
                now = fma(exp2(size * slope), now, driven)
                store(sums, k * WIDTH, fma(at(chosen, row + states + n), now, load(sums, k * WIDTH)))
            rest = fma(now, load(reach, n * channels + column), rest)
        for k in range(steps):
            rest = fma(load(sums, k * WIDTH), load(gate, k * channels + column), rest)
        store(out, column, rest)


@kernel(parallel=True, error_model="numpy")
def _pairs(weights, lead, follow, lead_index, follow_index, sizes, result):
    """Write (P, C), the sums of each pair's gated outputs.

    Args:
        weights: addresses of the direction's, from the taps to D, as `crossllm.model.fused.block.Weights` has them.
        lead, follow: addresses of `factored_mixing.Lead` and `Follow`.
        lead_index, follow_index: (P,).
        sizes: of the entities that lead, and of those that follow; C, N, R, W.
        result: address of what is written.
    """
    leads, follows, channels, states, rank, width = sizes
    steps, selects = width - 1, rank + 2 * states
    padded, pairs, row = -(-selects // WIDTH) * WIDTH, len(lead_index), states * channels
    taps = transposed(floats(weights[0], channels * width), channels, width, channels)
    bias, choose = floats(weights[1], channels), floats(weights[2], selects * channels)
    choose = transposed(choose, selects, channels, padded)
    widen = transposed(floats(weights[3], channels * rank), channels, rank, channels)
    widen_bias, skip = floats(weights[4], channels), floats(weights[6], channels)
    slopes = slopes_of(floats(weights[5], channels * states), channels, states)
    whole = steps * channels
    own, state, tail = floats(lead[0], leads * channels), floats(lead[1], leads * row), floats(lead[2], leads * whole)
    other, reach, head = (
        floats(follow[0], follows * channels),
        floats(follow[1], follows * row),
        floats(follow[2], follows * whole),
    )
    gate, inside = floats(follow[3], follows * whole), floats(follow[4], follows * steps)
    out = floats(result, pairs * channels)
    for task in prange(-(-pairs // TOGETHER)):
        first = task * TOGETHER
        count = min(TOGETHER, pairs - first)
        near, u = aligned(2 * whole), aligned(TOGETHER * whole)
        chosen, delta = aligned(TOGETHER * steps * padded), aligned(whole)
        for n in range(count):
            i, j = lead_index[first + n], follow_index[first + n]
            _near(tail, head, i, j, taps, bias, steps, channels, near, u[n * whole : (n + 1) * whole])
        tokens = count * steps, channels, padded
        product((u, 0, channels, 1), (choose, 0, padded), (chosen, 0, padded), tokens, False)
        for n in range(count):
            i, j = lead_index[first + n], follow_index[first + n]
            own_chosen, pair = chosen[n * steps * padded :], out[(first + n) * channels : (first + n + 1) * channels]
            _step_sizes(own_chosen, padded, widen, widen_bias, inside[j * steps :], rank, steps, channels, delta)
            for column in range(0, channels, WIDTH):
                store(pair, column, load(own, i * channels + column) + load(other, j * channels + column))
            _meet(
                u[n * whole :], delta, own_chosen, padded, slopes, skip, state[i * row :], reach[j * row :],
                gate[j * whole :], rank, states, steps, channels, pair,
            )  # fmt: skip


def pair_sums(
    weights: Sequence[Tensor],
    lead: Sequence[Tensor],
    follow: Sequence[Tensor],
    lead_index: Tensor,
    follow_index: Tensor,
) -> Tensor:
    """(P, C) sums of the gated outputs over all tokens of each pair, of one direction; nothing for autograd.

    Args:
        weights: of the direction, as `crossllm.model.fused.block.Weights` has them.
        lead, follow: `Lead` and `Follow` of `crossllm.model.factored_mixing`.
        lead_index, follow_index: (P,) int64, which entity each pair has.

    Raises:
        ValueError: a tensor is not float32 on the CPU.
    """
    lead, follow = [x.contiguous() for x in lead], [x.contiguous() for x in follow]
    A_log, rank, width = weights[6], weights[4].shape[1], weights[1].shape[-1]
    out = torch.empty(len(lead_index), len(A_log))
    sizes = len(lead[0]), len(follow[0]), *A_log.shape, rank, width
    use_threads(-(-len(lead_index) // TOGETHER))
    _pairs(
        addresses(*weights[1:8]), addresses(*lead), addresses(*follow), lead_index.numpy(), follow_index.numpy(), sizes,
        addresses(out)[0],
    )  # fmt: skip
    return out
