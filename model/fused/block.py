"""A BiMamba block's forward and backward pass as one autograd function of the two kernels beside this file.

For float32 on the CPU, and widths of whole registers; `crossllm.model.bimamba.BiMamba` says it operation by operation,
and is taken for everything else.  Shapes: T packed tokens, M model width, C channels, N state, R rank of Δ, W taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossllm.model.fused.backward import backward
from crossllm.model.fused.forward import forward
from crossllm.model.scan.layout import Layout, layout_of
from crossllm.model.scan.numba_call import addresses, fresh, use_threads


class Weights(NamedTuple):
    """Of one direction, as torch has them."""

    in_proj: Tensor
    """(2 C, M)."""
    conv: Tensor
    """(C, 1, W)."""
    conv_bias: Tensor
    """(C,)."""
    x_proj: Tensor
    """(R + 2 N, C)."""
    dt_proj: Tensor
    """(C, R)."""
    dt_bias: Tensor
    """(C,)."""
    A_log: Tensor
    """(C, N)."""
    D: Tensor
    """(C,)."""
    out_proj: Tensor
    """(M, C)."""


COUNT = len(Weights._fields)
_Sizes = tuple[int, int, int, int, int, int]


class _Plan(NamedTuple):
    layout: Layout
    floor: float
    """ε of the norm."""
    keep: bool
    """Whether backward will be called."""

    def of_kernel(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """What both kernels take of the layout."""
        own = self.layout
        return own.ends, own.runs, own.chunks, (own.before.numpy(), own.after.numpy())


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, gamma: Tensor, beta: Tensor, *weights: Tensor) -> Tensor:
        """(T, M)."""
        x, sizes = x.contiguous(), _sizes(x, weights)
        tokens, _, channels, states, rank, _ = sizes
        counts = tokens * (5 * channels + rank + 2 * states), int(plan.layout.chunks[-1]) * channels * states
        out, normed = torch.empty_like(x), torch.empty_like(x)
        held = fresh(len(weights) // COUNT * (counts[0] + (counts[1] if plan.keep else 0)))
        use_threads(len(plan.layout.runs) - 1)
        forward(
            addresses(x, gamma, beta, out, normed), _ways(weights, held, counts[0]), sizes, plan.floor,
            *plan.of_kernel(), plan.keep,
        )  # fmt: skip
        if plan.keep:
            ctx.save_for_backward(x, gamma, normed, held, *weights)
            ctx.plan, ctx.sizes, ctx.values = plan, sizes, counts[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Any:
        """Gradients of x, of the norm's weight and bias, and of the directions' weights."""
        x, gamma, normed, held, *weights = ctx.saved_tensors
        dout, dx, dgamma, dbeta = (
            dout.contiguous(),
            torch.empty_like(x),
            torch.empty_like(gamma),
            torch.empty_like(gamma),
        )
        gradients = [torch.empty_like(weight) for weight in weights]
        use_threads(len(ctx.plan.layout.runs) - 1)
        backward(
            addresses(dout, x, gamma, normed, dx, dgamma, dbeta), _ways(weights, held, ctx.values),
            _by_way(addresses(*gradients)), ctx.sizes, ctx.plan.floor, *ctx.plan.of_kernel(),
        )  # fmt: skip
        return None, dx, dgamma, dbeta, *gradients


def block(x: Tensor, gamma: Tensor, beta: Tensor, floor: float, weights: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """(T, M) of x (T, M), as `BiMamba.forward` gives it.

    Args:
        x: (T, M).
        gamma, beta: (M,) weight and bias of the norm.
        floor: its ε.
        weights: those of the forward direction as `Weights` has them, and of the backward one where there is one.
        offsets: (S+1,).

    Raises:
        ValueError: the offsets do not cut x into sequences of at least one token, or a weight is not contiguous.
    """
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, gamma, beta, *weights))
    plan = _Plan(layout_of(offsets, len(x)), floor, keep)
    out: Tensor = _Block.apply(plan, x, gamma, beta, *weights)  # type: ignore[no-untyped-call]
    return out


def _sizes(x: Tensor, weights: Sequence[Tensor]) -> _Sizes:
    """T, M, C, N, R, W."""
    own = Weights(*weights[:COUNT])
    (channels, states), rank = own.A_log.shape, own.dt_proj.shape[1]
    return len(x), x.shape[1], channels, states, rank, own.conv.shape[-1]


def _by_way(found: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The addresses of one direction's tensors and of the other's, which are the same where there is one."""
    return found[:COUNT], found[-COUNT:]


def _ways(weights: Sequence[Tensor], held: Tensor, values: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As the kernels take them: `held` is what each direction saves, `values` long, and then the states of each."""
    (first, last), directions = _by_way(addresses(*weights)), len(weights) // COUNT
    saved, size = held.data_ptr(), held.element_size()
    kept, states = saved + size * directions * values, len(held) // directions - values
    more = size * (directions - 1)
    return (*first, saved, kept), (*last, saved + more * values, kept + more * states)
