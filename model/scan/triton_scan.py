"""Selective scan on CUDA in Triton: packed, both directions, parallel over chunks of the tokens as well.

A sequence is cut into chunks of `CHUNK` steps.  The recurrence is linear, so a chunk acts on the state before it as
h → exp(A Σ Δ) h + (its own input, carried to its end), and a sequence of 3,000 tokens is 47 independent chunks:
    1. `_carry`      what each chunk adds by its end, from a zero state; all chunks at once
    2. `_pass_on`    the state before each chunk, along each sequence: few steps
    3. `_outputs`    y from the state before the chunk, by an associative scan inside it; all chunks at once
Backward does the same on the reversed recurrence of the gradient, g_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}.
Exponents are sums of Δ times A, so never above 0: nothing is divided, nothing overflows.

States are float32 whatever the inputs.  Sums over channels and chunks are partial sums added up in a fixed order by
torch: no atomics, the same input gives the same bits.  Imported only where it is used: Triton is no dependency on CPUs.
The functions at the end are those of `crossllm.model.scan.autograd.Kernels`.

Legend: T packed tokens, C channels, N states, K chunks, S sequences, L steps of a chunk, W channels of a block.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crossllm.model.scan.autograd import Inputs
from crossllm.model.scan.chunks import Chunks, cut
from crossllm.model.scan.triton_call import on_device_of_first

CHUNK = 64
"""Steps of a chunk."""
BLOCK = 32
"""Channels of a program."""
LOG2E = 1.4426950408889634


@triton.jit
def _compose(decay, state, next_decay, next_state):
    """Two steps of h → decay · h + state as one."""
    return decay * next_decay, next_decay * state + next_state


@triton.jit
def _tile(chunk, first, steps, sign, shift, C, L: tl.constexpr, W: tl.constexpr):
    """Offsets (L, W) into a (T, C) array, tokens (L,), and masks of a chunk's steps moved by `shift`."""
    k = tl.arange(0, L) + shift
    inside = (k >= 0) & (k < tl.load(steps + chunk))
    t = tl.load(first + chunk) + sign * k
    c = tl.program_id(1) * W + tl.arange(0, W)
    return t[:, None] * C + c[None, :], t, inside, inside[:, None] & (c < C)[None, :]


@triton.jit
def _carry(inputs, delta, a, rows, out, sizes, first, steps, sign, C, N: tl.constexpr, FORWARD: tl.constexpr,
           L: tl.constexpr, W: tl.constexpr):  # fmt: skip
    """Carried past each chunk from nothing: the state (of u and B) or its gradient (of dy and C)."""
    chunk = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * W + tl.arange(0, W)
    at, t, in_time, inside = _tile(chunk, first, steps, sign, 0, C, L, W)
    value = tl.load(inputs + at, inside, 0.0).to(tl.float32)
    size = tl.load(delta + at, inside, 0.0).to(tl.float32)
    if FORWARD:  # a step's share passes all later decays of the chunk
        value *= size
        at_next, _, _, next_inside = _tile(chunk, first, steps, sign, 1, C, L, W)
        travelled = tl.cumsum(tl.load(delta + at_next, next_inside, 0.0).to(tl.float32), 0, reverse=True)
    else:  # its own decay and all earlier ones
        travelled = tl.cumsum(size, 0)
    tl.store(sizes + chunk * C + c, tl.sum(size, 0), c < C)
    for n in range(N):
        slope = tl.load(a + n * C + c, c < C, 0.0)
        row = tl.load(rows + t * N + n, in_time, 0.0).to(tl.float32)
        share = tl.exp2(travelled * slope[None, :]) * value * row[:, None]
        tl.store(out + (chunk * N + n) * C + c, tl.sum(share, 0), c < C)


@triton.jit
def _pass_on(carries, sizes, a, chunk_ends, given, left_over, C, N: tl.constexpr, FORWARD: tl.constexpr,
             W: tl.constexpr):  # fmt: skip
    """`carries` (K, N, C) in place: from what each chunk adds to what comes into it, along each sequence.

    `given` (S, N, C) comes into the sequences, `left_over` (S, N, C) is what leaves them.
    """
    sequence, n = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * W + tl.arange(0, W)
    slope = tl.load(a + n * C + c, c < C, 0.0)
    begin, end = tl.load(chunk_ends + sequence), tl.load(chunk_ends + sequence + 1)
    own = (sequence.to(tl.int64) * N + n) * C + c
    coming = tl.load(given + own, c < C, 0.0)
    left = end - begin
    while left > 0:  # the interpreter's range() does not take a tensor with NumPy 2.4
        chunk = end - left if FORWARD else begin + left - 1
        at = carries + (chunk * N + n) * C + c
        added = tl.load(at, c < C, 0.0)
        tl.store(at, coming, c < C)
        coming = tl.exp2(slope * tl.load(sizes + chunk * C + c, c < C, 0.0)) * coming + added
        left -= 1
    tl.store(left_over + own, coming, c < C)


@triton.jit
def _outputs(
    u, delta, a, b, c_rows, d, coming, first, steps, sign, y, C, N: tl.constexpr, L: tl.constexpr, W: tl.constexpr
):
    """Y (T, C) from the states that come into the chunks."""
    chunk = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * W + tl.arange(0, W)
    at, t, in_time, inside = _tile(chunk, first, steps, sign, 0, C, L, W)
    x = tl.load(u + at, inside, 0.0).to(tl.float32)
    size = tl.load(delta + at, inside, 0.0).to(tl.float32)
    travelled = tl.cumsum(size, 0)
    total = x * tl.load(d + c, c < C, 0.0)[None, :]
    for n in range(N):
        slope = tl.load(a + n * C + c, c < C, 0.0)[None, :]
        row = tl.load(b + t * N + n, in_time, 0.0).to(tl.float32)
        _, state = tl.associative_scan((tl.exp2(size * slope), size * x * row[:, None]), 0, _compose)
        before = tl.load(coming + (chunk * N + n) * C + c, c < C, 0.0)
        state += tl.exp2(travelled * slope) * before[None, :]
        total += tl.load(c_rows + t * N + n, in_time, 0.0).to(tl.float32)[:, None] * state
    tl.store(y + at, total.to(y.dtype.element_ty), inside)


@triton.jit
def _gradients(dy, u, delta, a, b, c_rows, d, coming, going, first, steps, sign, du, ddelta, da, db, dc, dd, T, C,
               N: tl.constexpr, L: tl.constexpr, W: tl.constexpr):  # fmt: skip
    """Gradients of a chunk from the state that comes in and the gradient that comes back into its end.

    da (K, N, C) and dd (K, C) are partial sums by chunk, db and dc (blocks, T, N) by block of channels.
    """
    chunk, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    c = tl.program_id(1) * W + tl.arange(0, W)
    at, t, in_time, inside = _tile(chunk, first, steps, sign, 0, C, L, W)
    at_next, _, _, next_inside = _tile(chunk, first, steps, sign, 1, C, L, W)
    at_last, t_last, last_in_time, last_inside = _tile(chunk, first, steps, sign, -1, C, L, W)
    slope_y = tl.load(dy + at, inside, 0.0).to(tl.float32)
    x = tl.load(u + at, inside, 0.0).to(tl.float32)
    x_last = tl.load(u + at_last, last_inside, 0.0).to(tl.float32)
    size = tl.load(delta + at, inside, 0.0).to(tl.float32)
    size_next = tl.load(delta + at_next, next_inside, 0.0).to(tl.float32)
    size_last = tl.load(delta + at_last, last_inside, 0.0).to(tl.float32)
    travelled, to_come = tl.cumsum(size_last, 0), tl.cumsum(size_next, 0, reverse=True)
    to_input, to_delta = tl.zeros((L, W), tl.float32), tl.zeros((L, W), tl.float32)
    for n in range(N):
        own = (chunk * N + n) * C + c
        slope = tl.load(a + n * C + c, c < C, 0.0)[None, :]
        row = tl.load(b + t * N + n, in_time, 0.0).to(tl.float32)[:, None]
        row_last = tl.load(b + t_last * N + n, last_in_time, 0.0).to(tl.float32)[:, None]
        read = tl.load(c_rows + t * N + n, in_time, 0.0).to(tl.float32)[:, None]
        driven = size_last * x_last * row_last
        _passed, before = tl.associative_scan(
            (tl.exp2(size_last * slope), driven), 0, _compose
        )  # states before each step
        before += tl.exp2(travelled * slope) * tl.load(coming + own, c < C, 0.0)[None, :]
        _passed, g = tl.associative_scan((tl.exp2(size_next * slope), read * slope_y), 0, _compose, reverse=True)
        g += tl.exp2(to_come * slope) * tl.load(going + own, c < C, 0.0)[None, :]  # of the state after each step
        kept = tl.exp2(size * slope) * before
        rows = (block * T + t) * N + n
        tl.store(dc + rows, tl.sum(slope_y * (kept + size * x * row), 1), in_time)
        tl.store(db + rows, tl.sum(g * size * x, 1), in_time)
        to_input += g * row
        through = g * kept
        to_delta += through * slope
        tl.store(da + own, tl.sum(through * size, 0), c < C)
    tl.store(dd + chunk * C + c, tl.sum(slope_y * x, 0), c < C)
    skip = tl.load(d + c, c < C, 0.0)[None, :]
    tl.store(du + at, (slope_y * skip + size * to_input).to(du.dtype.element_ty), inside)
    to_delta = to_delta * 0.6931471805599453 + x * to_input
    tl.store(ddelta + at, to_delta.to(ddelta.dtype.element_ty), inside)


def _carries(
    inputs: Tensor, delta: Tensor, at: Tensor, rows: Tensor, chunks: Chunks, forward: bool, given: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What comes into each chunk (K, N, C) and leaves each sequence (S, N, C), float32: the state, or its gradient."""
    states, channels = at.shape
    count, sequences, blocks = len(chunks.first), len(chunks.ends) - 1, triton.cdiv(channels, BLOCK)
    carries, sizes = at.new_empty(count, states, channels), at.new_empty(count, channels)
    table = (chunks.first, chunks.steps, chunks.sign)
    _carry[count, blocks](inputs, delta, at, rows, carries, sizes, *table, channels, states, forward, CHUNK, BLOCK)
    given = at.new_zeros(sequences, states, channels) if given is None else given.float().contiguous()
    left_over = torch.empty_like(given)
    grid = (sequences, blocks, states)
    _pass_on[grid](carries, sizes, at, chunks.ends, given, left_over, channels, states, forward, BLOCK)
    return carries, left_over


def _slopes(A: Tensor) -> Tensor:
    """A·log₂e as (N, C) float32."""
    return (A.float().t() * LOG2E).contiguous()


@on_device_of_first
def forward(
    x: Inputs, initial: Tensor | None, offsets: Tensor, reverse: bool, keep: bool, ends: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the states after the sequences, the states that come into the chunks."""
    u, delta, B, C = (tensor.contiguous() for tensor in (x.u, x.delta, x.B, x.C))
    at, chunks = _slopes(x.A), cut(offsets, CHUNK, reverse, u.device)
    y, (states, channels) = torch.empty_like(u), at.shape
    coming, final = _carries(u, delta, at, B, chunks, True, initial)
    grid = (len(chunks.first), triton.cdiv(channels, BLOCK))
    table = (chunks.first, chunks.steps, chunks.sign)
    _outputs[grid](u, delta, at, B, C, x.D.float().contiguous(), coming, *table, y, channels, states, CHUNK, BLOCK)
    return y, final if ends else final[:0], coming if keep else coming[:0]


@on_device_of_first
def backward(
    dy: Tensor, dfinal: Tensor | None, x: Inputs, offsets: Tensor, reverse: bool, kept: Tensor, ends: bool
) -> tuple[Inputs, Tensor | None]:
    """Gradients of the inputs and of the states before the sequences."""
    dy, u, delta, B, C = (tensor.contiguous() for tensor in (dy, x.u, x.delta, x.B, x.C))
    at, chunks, tokens = _slopes(x.A), cut(offsets, CHUNK, reverse, u.device), len(u)
    states, channels = at.shape
    going, to_initial = _carries(dy, delta, at, C, chunks, False, dfinal)
    count, blocks = len(chunks.first), triton.cdiv(channels, BLOCK)
    du, ddelta = torch.empty_like(u), torch.empty_like(delta)
    da, dd = at.new_empty(count, states, channels), at.new_empty(count, channels)
    db, dc = at.new_empty(blocks, tokens, states), at.new_empty(blocks, tokens, states)
    _gradients[count, blocks](
        dy, u, delta, at, B, C, x.D.float().contiguous(), kept, going, chunks.first, chunks.steps, chunks.sign,
        du, ddelta, da, db, dc, dd, tokens, channels, states, CHUNK, BLOCK,
    )  # fmt: skip
    sums = da.sum(0).t().to(x.A.dtype), db.sum(0).to(B.dtype), dc.sum(0).to(C.dtype), dd.sum(0).to(x.D.dtype)
    return Inputs(du, ddelta, *sums), to_initial if ends else None


@on_device_of_first
def reach(gate: Tensor, x: Inputs, offsets: Tensor, reverse: bool) -> Tensor:
    """W: what is left of the gradient's recurrence at a sequence's first step."""
    gate, delta, C = (tensor.contiguous() for tensor in (gate, x.delta, x.C))
    return _carries(gate, delta, _slopes(x.A), C, cut(offsets, CHUNK, reverse, gate.device), False, None)[1]
