"""The scan's gradients, written once for every backend that gives the three kernels of `Kernels`.

Shapes: T packed tokens, C channels, N state, S sequences.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.batch import Packed, segment_sum, spread_over


class Kernels(Protocol):
    """What a backend computes, without autograd.  Tensors come as they were given: on one device, contiguous or not."""

    def forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        initial: Tensor | None,
        offsets: Tensor,
        reverse: bool,
        keep: bool,
        ends: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Y (T, C); the states after the sequences (S, N, C) float32, empty unless `ends`; what backward is handed.

        Args:
            u, delta, A, B, C, D, offsets, reverse: as `model.scan.selective_scan` has them.
            initial: (S, N, C) float32 states before the sequences; None: zero.
            keep: whether backward will be called.
            ends: whether the states are wanted.
        """
        ...

    def backward(
        self,
        dy: Tensor,
        dfinal: Tensor | None,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        offsets: Tensor,
        reverse: bool,
        kept: Tensor,
        ends: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of u, delta, A, B, C, D and, where `ends`, of the states before the sequences."""
        ...

    def reach(self, gate: Tensor, delta: Tensor, A: Tensor, C: Tensor, offsets: Tensor, reverse: bool) -> Tensor:
        """W (S, N, C) float32 of `model.scan.scan_reach`."""
        ...


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, initial: Any, plan: Any
    ) -> Any:
        """Y and the states after the sequences."""
        offsets, reverse, keep, ends = plan
        y, final, kept = kernels.forward(u, delta, A, B, C, D, initial, offsets, reverse, keep, ends)
        ctx.save_for_backward(u, delta, A, B, C, D, kept)
        ctx.kernels, ctx.plan, ctx.starts = kernels, plan, initial is not None
        ctx.set_materialize_grads(False)
        if not ends:
            ctx.mark_non_differentiable(final)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any, dfinal: Any) -> Any:
        """Gradients of u, delta, A, B, C, D and the initial states."""
        u, delta, A, B, C, D, kept = ctx.saved_tensors
        offsets, reverse = ctx.plan[:2]
        if dy is None:
            dy = torch.zeros_like(u)
        found = ctx.kernels.backward(dy, dfinal, u, delta, A, B, C, D, offsets, reverse, kept, ctx.starts)
        return None, *found, None


class _Reach(torch.autograd.Function):
    """P = Σ_t gate_t y_t from zero states, and W.

    With dP and dW given, dP·P + dW·W = Σ_t gate_t y'_t, where y' is the scan of dP·u from the states dW: all is linear
    in the state.  So its gradients are those of one more scan, run when they are asked for.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, gate: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, plan: Any
    ) -> Any:
        """P (S, C) and W (S, N, C)."""
        offsets, reverse = plan
        y, _, _ = kernels.forward(u, delta, A, B, C, D, None, offsets, reverse, False, False)
        ctx.save_for_backward(gate, u, delta, A, B, C, D)
        ctx.kernels, ctx.plan = kernels, plan
        return segment_sum(Packed(gate * y, offsets)), kernels.reach(gate, delta, A, C, offsets, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dpooled: Any, dreach: Any) -> Any:
        """Gradients of gate, u, delta, A, B, C and D."""
        gate, u, delta, A, B, C, D = ctx.saved_tensors
        offsets, reverse = ctx.plan
        scale = spread_over(dpooled, offsets)
        scaled = u * scale
        y, _, kept = ctx.kernels.forward(scaled, delta, A, B, C, D, dreach, offsets, reverse, True, False)
        to_u, *rest = ctx.kernels.backward(gate, None, scaled, delta, A, B, C, D, offsets, reverse, kept, False)[:6]
        return None, y, to_u * scale, *rest, None


def scan(
    kernels: Kernels,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial: Tensor | None,
    offsets: Tensor,
    reverse: bool,
    ends: bool,
) -> tuple[Tensor, Tensor]:
    """Y (T, C) and, where `ends`, the states after the sequences (S, N, C)."""
    # Inside forward() gradients are always off, and needs_input_grad is set for parameters even under no_grad.
    given = (u, delta, A, B, C, D) if initial is None else (u, delta, A, B, C, D, initial)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    found: tuple[Tensor, Tensor] = _Scan.apply(  # type: ignore[no-untyped-call]
        kernels, u, delta, A, B, C, D, initial, (offsets, reverse, keep, ends)
    )
    return found


def reach(
    kernels: Kernels,
    gate: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    offsets: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """P (S, C) and W (S, N, C) of `model.scan.scan_reach`."""
    found: tuple[Tensor, Tensor] = _Reach.apply(  # type: ignore[no-untyped-call]
        kernels, gate, u, delta, A, B, C, D, (offsets, reverse)
    )
    return found
