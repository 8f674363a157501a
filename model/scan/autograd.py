"""The scan's gradients, written once for every backend that gives the three kernels of `Kernels`.

Shapes: T packed tokens, C channels, N state, S sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossllm.model.batch import Packed, segment_sum, spread_over


class Inputs(NamedTuple):
    """Of a scan, by the glossary of `crossllm.model.scan.selective_scan`; and their gradients, in the same order."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


class Kernels(Protocol):
    """What a backend computes, without autograd.  Tensors come as they were given: on one device, contiguous or not."""

    def forward(
        self, x: Inputs, initial: Tensor | None, offsets: Tensor, reverse: bool, keep: bool, ends: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Y (T, C); the states after the sequences (S, N, C) float32, empty unless `ends`; what backward is handed.

        Args:
            x, offsets, reverse: as `crossllm.model.scan.selective_scan.selective_scan` has them.
            initial: (S, N, C) float32 states before the sequences; None: zero.
            keep: whether backward will be called.
            ends: whether the states are wanted.
        """
        ...

    def backward(
        self, dy: Tensor, dfinal: Tensor | None, x: Inputs, offsets: Tensor, reverse: bool, kept: Tensor, ends: bool
    ) -> tuple[Inputs, Tensor | None]:
        """Gradients of the inputs and, where `ends`, of the states before the sequences."""
        ...

    def reach(self, gate: Tensor, x: Inputs, offsets: Tensor, reverse: bool) -> Tensor:
        """W (S, N, C) float32 of `crossllm.model.scan.selective_scan.scan_reach`."""
        ...


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, plan: Any, initial: Any, *x: Any) -> Any:
        """Y and the states after the sequences."""
        offsets, reverse, keep, ends = plan
        y, final, kept = kernels.forward(Inputs(*x), initial, offsets, reverse, keep, ends)
        ctx.save_for_backward(kept, *x)
        ctx.kernels, ctx.plan, ctx.starts = kernels, plan, initial is not None
        ctx.set_materialize_grads(False)
        if not ends:
            ctx.mark_non_differentiable(final)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any, dfinal: Any) -> Any:
        """Gradients of the initial states and of u, delta, A, B, C, D."""
        kept, *x = ctx.saved_tensors
        offsets, reverse = ctx.plan[:2]
        if dy is None:
            dy = torch.zeros_like(x[0])
        slopes, to_initial = ctx.kernels.backward(dy, dfinal, Inputs(*x), offsets, reverse, kept, ctx.starts)
        return None, None, to_initial, *slopes


class _Reach(torch.autograd.Function):
    """P = Σ_t gate_t y_t from zero states, and W.

    With dP and dW given, dP·P + dW·W = Σ_t gate_t y'_t, where y' is the scan of dP·u from the states dW: all is linear
    in the state.  So its gradients are those of one more scan, run when they are asked for.
    """

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, plan: Any, gate: Any, *inputs: Any) -> Any:
        """P (S, C) and W (S, N, C)."""
        (offsets, reverse), x = plan, Inputs(*inputs)
        y, _, _ = kernels.forward(x, None, offsets, reverse, False, False)
        ctx.save_for_backward(gate, *x)
        ctx.kernels, ctx.plan = kernels, plan
        return segment_sum(Packed(gate * y, offsets)), kernels.reach(gate, x, offsets, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dpooled: Any, dreach: Any) -> Any:
        """Gradients of gate and of u, delta, A, B, C, D."""
        gate, *inputs = ctx.saved_tensors
        (offsets, reverse), x = ctx.plan, Inputs(*inputs)
        scale = spread_over(dpooled, offsets)
        scaled = x._replace(u=x.u * scale)
        y, _, kept = ctx.kernels.forward(scaled, dreach, offsets, reverse, True, False)
        slopes, _ = ctx.kernels.backward(gate, None, scaled, offsets, reverse, kept, False)
        return None, None, y, *slopes._replace(u=slopes.u * scale)


def scan(
    kernels: Kernels, x: Inputs, initial: Tensor | None, offsets: Tensor, reverse: bool, ends: bool
) -> tuple[Tensor, Tensor]:
    """Y (T, C) and, where `ends`, the states after the sequences (S, N, C)."""
    # Inside forward() gradients are always off, and needs_input_grad is set for parameters even under no_grad.
    given = x if initial is None else (*x, initial)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    plan = offsets, reverse, keep, ends
    found: tuple[Tensor, Tensor] = _Scan.apply(kernels, plan, initial, *x)  # type: ignore[no-untyped-call]
    return found


def reach(kernels: Kernels, gate: Tensor, x: Inputs, offsets: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """P (S, C) and W (S, N, C) of `crossllm.model.scan.selective_scan.scan_reach`."""
    found: tuple[Tensor, Tensor] = _Reach.apply(kernels, (offsets, reverse), gate, *x)  # type: ignore[no-untyped-call]
    return found
