"""The mean of one BiMamba block over S = [X ; Y] of many pairs, the work on X and Y done once an entity, not a pair.

Exact, not an approximation.  In the direction that reads X first, let h be the state after X's last token.  Then
    X's outputs      do not depend on Y: their gated sum, and h, are X's own (`Lead`);
    Y's first W − 1 tokens are reached by the convolution (W taps) from X: they are computed for each pair, from h on;
    Y's other tokens have u, Δ, B, C and gate of their own, and the scan is linear in its state.  With h' the state
                     after the W − 1 tokens, their gated sum is P_Y + Σ_n h' W_Y, where P_Y (the sum from a zero state)
                     and W_Y = Σ_t gate_t C_t Π_{s ≤ t} Ā_s are Y's own (`Follow`).
The direction that reads Y first, from its end, is the same with X and Y in each other's place.  The block's output
projection and residual are linear, so they are taken of sums over tokens.  P pairs of S entities of L tokens cost S
passes over L tokens and P passes over W − 1, where the joined sequences cost P passes over 2 L.

It needs a mean that follows the block at once: a norm of each token, or a second block, sees h in every token of Y.
Reference: `BiMamba` on `join_pairs`, then `segment_mean` (`model/fusion.py` takes it wherever this does not apply).
Shapes: T packed tokens, M model width, C channels, N state, P pairs, S entities, W taps of the convolution.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from crossllm.model.batch import Packed, segment_sum
from crossllm.model.bimamba import BiMamba, Mamba
from crossllm.model.scan.selective_scan import scan_reach, scan_states

AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Device → values of the states of the pairs that meet in one go: on the CPU they stay in its caches."""


class Lead(NamedTuple):
    """What an entity hands on that one direction reads first."""

    pooled: Tensor
    """(S, C) sum of its gated outputs."""
    state: Tensor
    """(S, N, C) after its last token."""
    tail: Tensor
    """(S, W − 1, C) what the convolution reads of its last tokens."""


class Follow(NamedTuple):
    """What an entity has to hand that one direction reads second."""

    pooled: Tensor
    """(S, C) sum of its gated outputs after its first W − 1 tokens, from a zero state."""
    reach: Tensor
    """(S, N, C) what that sum takes from the state."""
    head: Tensor
    """(S, W − 1, C) what the convolution reads of its first tokens."""
    gate: Tensor
    """(S, W − 1, C) their gates, 0 where a shorter entity has no token."""
    inside: Tensor
    """(S, W − 1) 1 where there is a token, else 0."""


def mixed_mean(block: BiMamba, first: Packed, second: Packed, first_index: Tensor, second_index: Tensor) -> Tensor:
    """(P, M): the mean over tokens of `block` on every pair's S = [X ; Y].

    Args:
        block: the mixer.
        first, second: entities (T, M), X of the first set and Y of the second.
        first_index, second_index: (P,) int64 on the CPU, which entity each pair has.
    """
    device = first.tokens.device
    own_first, own_second = segment_sum(first), segment_sum(second)
    x, y = (side._replace(tokens=block.norm(side.tokens)) for side in (first, second))
    ways = [(block.fwd, _lead(block.fwd, x, False), _follow(block.fwd, y, False), False)]
    if block.bwd is not None:
        ways.append((block.bwd, _lead(block.bwd, y, True), _follow(block.bwd, x, True), True))
    lengths = (first.offsets.diff()[first_index] + second.offsets.diff()[second_index]).to(device)
    first_index, second_index = first_index.to(device), second_index.to(device)
    meet = _meet
    if block.is_fused(first.tokens) and not torch.is_grad_enabled():
        meet = _meet_by_kernel
    at_once = max(1, AT_ONCE.get(device.type, AT_ONCE["cpu"]) // block.fwd.A_log.numel())
    means = []
    for start in range(0, len(first_index), at_once):
        part = slice(start, start + at_once)
        i, j = first_index[part], second_index[part]
        total = own_first.index_select(0, i) + own_second.index_select(0, j)
        for mamba, lead, follow, back in ways:
            total = total + meet(mamba, lead, follow, *((j, i) if back else (i, j)))
        means.append(total / lengths[part, None])
    return torch.cat(means)


def is_cheaper(block: BiMamba, first: Packed, second: Packed, first_index: Tensor, second_index: Tensor) -> bool:
    """Whether `mixed_mean` has less to compute than the joined pairs have: not where pairs share little or are short.

    Counted in tokens by rule of thumb: an entity's cost half as much again, since the gradient of `Follow` is another
    scan, and a pair's states as much as N tokens.  It chooses right where it was measured (docs/LOG.md): the joined
    pairs on the demo, where pairs share little, and `mixed_mean` on RPI1460.
    """
    joined = first.offsets.diff()[first_index].sum() + second.offsets.diff()[second_index].sum()
    states = block.fwd.A_log.shape[1]
    return 1.5 * (len(first.tokens) + len(second.tokens)) + states * len(first_index) < float(joined)


def _lead(mamba: Mamba, x: Packed, reverse: bool) -> Lead:
    before, gate, u = mamba.expand(x.tokens, x.offsets, reverse)
    delta, B, C = mamba.select(u)
    y, state = scan_states(u, delta, mamba.A, B, C, mamba.D, x.offsets, reverse, mamba.backend)
    edge, inside = _edge(x.offsets, mamba.conv_weight.shape[1] - 1, last=True, reverse=reverse)
    tail = _rows(before, edge, inside)
    return Lead(segment_sum(Packed(y * gate, x.offsets)), state, tail)


def _follow(mamba: Mamba, x: Packed, reverse: bool) -> Follow:
    before, gate, u = mamba.expand(x.tokens, x.offsets, reverse)
    delta, B, C = mamba.select(u)
    gate = gate.to(u.dtype)
    edge, inside = _edge(x.offsets, mamba.conv_weight.shape[1] - 1, last=False, reverse=reverse)
    # Without a step and a gate the first tokens change neither the state nor the sum.
    seam = edge[inside].to(u.device)
    rest, open_gate = delta.index_fill(0, seam, 0.0), gate.index_fill(0, seam, 0.0)
    pooled, reach = scan_reach(open_gate, u, rest, mamba.A, B, C, mamba.D, x.offsets, reverse, mamba.backend)
    there = inside.to(u.device, u.dtype)
    return Follow(pooled, reach, _rows(before, edge, inside), _rows(gate, edge, inside), there)


def _meet(mamba: Mamba, lead: Lead, follow: Follow, lead_index: Tensor, follow_index: Tensor) -> Tensor:
    """(P, M): one direction's output, summed over the tokens of each pair; indices lie on the device."""
    weight = mamba.conv_weight
    pairs, steps = len(lead_index), weight.shape[1] - 1
    near = torch.cat([lead.tail.index_select(0, lead_index), follow.head.index_select(0, follow_index)], 1)
    mixed = mamba.conv_bias
    for tap in range(steps + 1):
        mixed = torch.addcmul(mixed, near[:, tap : tap + steps], weight[:, tap])
    u = F.silu(mixed.flatten(0, 1))
    delta, B, C = mamba.select(u)
    delta = delta * follow.inside.index_select(0, follow_index).view(-1, 1)
    offsets = torch.arange(0, (pairs + 1) * steps, steps)
    state = lead.state.index_select(0, lead_index)
    y, state = scan_states(u, delta, mamba.A, B, C, mamba.D, offsets, False, mamba.backend, state)
    seam = (y.view(pairs, steps, -1) * follow.gate.index_select(0, follow_index)).sum(1)
    rest = (state * follow.reach.index_select(0, follow_index)).sum(1)
    pooled = lead.pooled.index_select(0, lead_index) + seam + follow.pooled.index_select(0, follow_index) + rest
    with torch.autocast(pooled.device.type, enabled=False):  # sums over whole entities, and a row a pair: not rounded
        return F.linear(pooled, mamba.out_proj.weight)


def _meet_by_kernel(mamba: Mamba, lead: Lead, follow: Follow, lead_index: Tensor, follow_index: Tensor) -> Tensor:
    """`_meet` where nothing is learnt."""
    from crossllm.model.fused.meeting import pair_sums  # compiles, so only where it is used

    return F.linear(pair_sums(mamba.weights, lead, follow, lead_index, follow_index), mamba.out_proj.weight)


def _edge(offsets: Tensor, count: int, last: bool, reverse: bool) -> tuple[Tensor, Tensor]:
    """(S, count) tokens of each entity's first or last `count` steps in the order of the scan, and which are there.

    Of a shorter entity the first steps lie to the left and the last ones to the right, as the convolution has them.
    """
    start, stop = offsets[:-1, None], offsets[1:, None]
    steps = torch.arange(count)
    places = stop - start - count + steps if last else steps.expand(len(start), -1)  # counted in the scan's order
    inside = (places >= 0) & (places < stop - start)
    tokens = stop - 1 - places if reverse else start + places
    return torch.where(inside, tokens, 0), inside


def _rows(x: Tensor, tokens: Tensor, inside: Tensor) -> Tensor:
    """Rows of x (T, C) at (S, count) tokens, zero where there is none: (S, count, C)."""
    rows = x.index_select(0, tokens.flatten().to(x.device)).view(*tokens.shape, -1)
    return rows * inside[..., None].to(x.device, x.dtype)
