"""Selective scan on the CPU: plans the tasks of `model.scan_kernels` and joins them to autograd.

Forward keeps the states before each chunk of `EVERY` steps.  Backward computes a chunk's states again from those, so
memory is O(T·C) instead of the O(T·C·N) of all states.  Sums over sequences and over channels are taken in a fixed
order, whatever the number of threads: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from model.numba_call import flat, fresh, use_threads
from model.scan_kernels import BLOCK, EVERY, backward, forward
from model.scan_lanes import LOG2E, WIDTH

GROUPS = 16
"""Groups of sequences: the most tasks a channel block is split into; constant, so that sums never depend on threads."""


def _group(offsets: np.ndarray) -> np.ndarray:
    """Boundaries of at most `GROUPS` runs of sequences with about equal tokens; depends on the lengths alone."""
    count = len(offsets) - 1
    targets = offsets[-1] * np.arange(1, min(GROUPS, count)) // min(GROUPS, count)
    cuts = np.unique(np.searchsorted(offsets, targets))
    return np.unique(np.concatenate([[0], cuts, [count]])).astype(np.int64)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, offsets: Any, reverse: bool, keep: bool
    ) -> Any:
        """y, shape (T, C); see `model.scan.selective_scan`."""
        ends = offsets.numpy()
        spare = -u.shape[1] % WIDTH  # channels up to a whole register: they stay zero
        u, delta, D = (F.pad(x.detach(), (0, spare)) if spare else x for x in (u, delta, D))
        at = F.pad(A.detach().t() * LOG2E, (0, spare)).contiguous()
        chunks = -(-np.diff(ends) // EVERY)
        kept_offsets = np.concatenate([[0], np.cumsum(chunks)])
        kept = fresh(int(kept_offsets[-1]) * at.numel() if keep else 0)
        y = fresh(*u.shape)
        plan = (ends, _group(ends), kept_offsets, reverse)
        use_threads()
        forward(*flat(u, delta, at, B, C, D), *plan, *flat(y, kept))
        ctx.save_for_backward(u, delta, at, B, C, D, kept)
        ctx.plan, ctx.channels = plan, len(A)
        return y[:, : len(A)] if spare else y

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        """Gradients of u, delta, A, B, C and D."""
        u, delta, at, B, C, D, kept = ctx.saved_tensors
        (tokens, padded), states, channels = u.shape, len(at), ctx.channels
        groups, blocks = len(ctx.plan[1]) - 1, -(-padded // BLOCK)
        if padded > channels:
            dy = F.pad(dy, (0, padded - channels))
        du, ddelta = fresh(*u.shape), fresh(*u.shape)
        da, dd = torch.zeros(groups, padded * states), torch.zeros(groups, padded)
        db, dc = fresh(blocks, tokens * states), fresh(blocks, tokens * states)
        partial = [x.numpy() for x in (da, db, dc, dd)]
        use_threads()
        backward(*flat(dy, u, delta, at, B, C, D), *ctx.plan, *flat(kept, du, ddelta), *partial)
        da = da.sum(0).view(-1, states, WIDTH).transpose(1, 2).reshape(padded, states)[:channels]
        db, dc = db.sum(0).view_as(B), dc.sum(0).view_as(C)
        return du[:, :channels], ddelta[:, :channels], da, db, dc, dd.sum(0)[:channels], None, None, None


def scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, offsets: Any, reverse: bool) -> torch.Tensor:
    """`model.scan.selective_scan` for float32 tensors on the CPU."""
    # Inside forward() gradients are always off, and needs_input_grad is set for parameters even under no_grad.
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (u, delta, A, B, C, D))
    y: torch.Tensor = _Scan.apply(u, delta, A, B, C, D, offsets, reverse, keep)
    return y
