"""Selective scan on the CPU: plans the tasks of `crossllm.model.scan.numba_kernels`; float32.

Forward keeps the states before each chunk of `EVERY` steps.  Backward computes a chunk's states again from those, so
memory is O(T·C) instead of the O(T·C·N) of all states.  Sums over sequences and over channels are taken in a fixed
order, whatever the number of threads: the same input gives the same bits.
The functions are those of `crossllm.model.scan.autograd.Kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.model.scan import numba_kernels, numba_kernels_backward
from crossllm.model.scan.autograd import Inputs
from crossllm.model.scan.layout import layout_of
from crossllm.model.scan.numba_call import flat, fresh, to_registers, use_threads
from crossllm.model.scan.numba_kernels import BLOCK
from crossllm.model.scan.simd import LOG2E, WIDTH


class _Plan(NamedTuple):
    """Of the tasks."""

    ends: np.ndarray
    """The offsets."""
    groups: np.ndarray
    kept: np.ndarray
    """Where each sequence's chunks begin among all."""
    reverse: bool


def _plan(offsets: Tensor, tokens: int, reverse: bool) -> _Plan:
    layout = layout_of(offsets, tokens)
    return _Plan(layout.ends, layout.groups, layout.chunks, reverse)


def _slopes(A: Tensor) -> Tensor:
    """A·log₂e as (N, C), whole registers."""
    return to_registers(A.detach().t() * LOG2E)[0].contiguous()


def forward(
    x: Inputs, initial: Tensor | None, offsets: Tensor, reverse: bool, keep: bool, ends: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the states after the sequences, the states before each chunk."""
    channels = len(x.A)
    u, delta, D = to_registers(x.u, x.delta, x.D)
    at, plan = _slopes(x.A), _plan(offsets, len(x.u), reverse)
    before = fresh(0) if initial is None else to_registers(initial)[0]
    kept = fresh(int(plan.kept[-1]) * at.numel() if keep else 0)
    final = fresh(*((len(plan.ends) - 1, *at.shape) if ends else (0,)))
    y = fresh(*u.shape)
    use_threads()
    numba_kernels.forward(*flat(u, delta, at, x.B, x.C, D), *plan, *flat(before, y, kept, final))
    return y[:, :channels], final[..., :channels], kept


def backward(
    dy: Tensor, dfinal: Tensor | None, x: Inputs, offsets: Tensor, reverse: bool, kept: Tensor, ends: bool
) -> tuple[Inputs, Tensor | None]:
    """Gradients of the inputs and of the states before the sequences."""
    channels = len(x.A)
    dy, u, delta, D = to_registers(dy, x.u, x.delta, x.D)
    at, plan = _slopes(x.A), _plan(offsets, len(x.u), reverse)
    (tokens, padded), states = u.shape, len(at)
    groups, blocks = len(plan.groups) - 1, -(-padded // BLOCK)
    after = fresh(0) if dfinal is None else to_registers(dfinal)[0]
    before = fresh(*((len(plan.ends) - 1, *at.shape) if ends else (0,)))
    du, ddelta = fresh(*u.shape), fresh(*u.shape)
    da, dd = torch.zeros(groups, padded * states), torch.zeros(groups, padded)
    db, dc = fresh(blocks, tokens * states), fresh(blocks, tokens * states)
    partial = [x.numpy() for x in (da, db, dc, dd)]
    use_threads()
    numba_kernels_backward.backward(
        *flat(dy, after, u, delta, at, x.B, x.C, D), *plan, *flat(kept, du, ddelta, before), *partial
    )
    da = da.sum(0).view(-1, states, WIDTH).transpose(1, 2).reshape(padded, states)[:channels]
    db, dc = db.sum(0).view_as(x.B), dc.sum(0).view_as(x.C)
    slopes = Inputs(du[:, :channels], ddelta[:, :channels], da, db, dc, dd.sum(0)[:channels])
    return slopes, before[..., :channels] if ends else None


def reach(gate: Tensor, x: Inputs, offsets: Tensor, reverse: bool) -> Tensor:
    """W."""
    gate, delta = to_registers(gate, x.delta)
    at, plan = _slopes(x.A), _plan(offsets, len(x.u), reverse)
    out = fresh(len(plan.ends) - 1, *at.shape)
    use_threads()
    numba_kernels.reach(*flat(gate, delta, at, x.C), plan.ends, plan.groups, at.shape[1], reverse, out.view(-1).numpy())
    return out[..., : len(x.A)]
