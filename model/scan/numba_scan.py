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
from torch.nn import functional as F

from crossllm.model.scan import numba_kernels, numba_kernels_backward
from crossllm.model.scan.autograd import Inputs
from crossllm.model.scan.numba_call import flat, fresh, use_threads
from crossllm.model.scan.numba_kernels import BLOCK, EVERY
from crossllm.model.scan.simd import LOG2E, WIDTH

GROUPS = 16
"""Groups of sequences: the most tasks a channel block is split into; constant, so that sums never depend on threads."""


class _Plan(NamedTuple):
    """Of the tasks."""

    ends: np.ndarray
    """The offsets."""
    groups: np.ndarray
    kept: np.ndarray
    """Where each sequence's chunks begin among all."""
    reverse: bool


def _plan(offsets: Tensor, reverse: bool) -> _Plan:
    ends = offsets.numpy()
    chunks = -(-np.diff(ends) // EVERY)
    return _Plan(ends, _group(ends), np.concatenate([[0], np.cumsum(chunks)]), reverse)


def _group(offsets: np.ndarray) -> np.ndarray:
    """Boundaries of at most `GROUPS` runs of sequences with about equal tokens; depends on the lengths alone."""
    count = len(offsets) - 1
    targets = offsets[-1] * np.arange(1, min(GROUPS, count)) // min(GROUPS, count)
    cuts = np.unique(np.searchsorted(offsets, targets))
    return np.unique(np.concatenate([[0], cuts, [count]])).astype(np.int64)


def _whole(*tensors: Tensor) -> list[Tensor]:
    """Channels, the last dimension, up to a whole register: they stay zero."""
    spare = -tensors[0].shape[-1] % WIDTH
    return [F.pad(x.detach(), (0, spare)) if spare else x.detach() for x in tensors]


def _slopes(A: Tensor) -> Tensor:
    """A·log₂e as (N, C), whole registers."""
    return _whole(A.detach().t() * LOG2E)[0].contiguous()


def forward(
    x: Inputs, initial: Tensor | None, offsets: Tensor, reverse: bool, keep: bool, ends: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the states after the sequences, the states before each chunk."""
    channels = len(x.A)
    u, delta, D = _whole(x.u, x.delta, x.D)
    at, plan = _slopes(x.A), _plan(offsets, reverse)
    before = fresh(0) if initial is None else _whole(initial)[0]
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
    dy, u, delta, D = _whole(dy, x.u, x.delta, x.D)
    at, plan = _slopes(x.A), _plan(offsets, reverse)
    (tokens, padded), states = u.shape, len(at)
    groups, blocks = len(plan.groups) - 1, -(-padded // BLOCK)
    after = fresh(0) if dfinal is None else _whole(dfinal)[0]
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
    gate, delta = _whole(gate, x.delta)
    at, plan = _slopes(x.A), _plan(offsets, reverse)
    out = fresh(len(plan.ends) - 1, *at.shape)
    use_threads()
    numba_kernels.reach(*flat(gate, delta, at, x.C), plan.ends, plan.groups, at.shape[1], reverse, out.view(-1).numpy())
    return out[..., : len(x.A)]
