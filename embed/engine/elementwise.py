"""What lies between the matrix products and the attention: rotation, sum and norm, gate.

Here they stand plainly, once.  On a CPU the passes of `fused_cpu` take their place, on CUDA these same functions
compiled by torch, one kernel each; where that fails they run as they stand.  Tests hold either to the plain ones.
Shapes: T packed tokens, D width, F inner width, H heads, K = D / H.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossllm.cache.console.messages import note
from crossllm.cache.errors import one_line
from crossllm.embed.engine import fused_cpu
from crossllm.embed.engine.device import is_out_of_memory


class Norm(NamedTuple):
    """A layer norm, in float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn q and k of (T, 3, H, K) in place: each pair (x[i], x[i + K/2]) by its angle; `cos` and `sin` (T, K / 2)."""
    both, half = qkv[:, :2], qkv.shape[-1] // 2
    a, b = both[..., :half].float(), both[..., half:].float()
    cos, sin = cos[:, None, None], sin[:, None, None]
    both[:] = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)  # a and b may be views of it


def add_norm(x: Tensor, added: Tensor | None, norm: Norm, onward: bool, compute: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum x + added (T, D) float32, and its norm in the type `compute`; with `onward` the norm is the new sum."""
    x = x if added is None else x + added
    h = norm(x)
    return h if onward else x, h.to(compute)


def gate(u: Tensor, beta: float) -> Tensor:
    """SwiGLU, (T, F): u · σ(βu) · g of the halves u and g of (T, 2 F)."""
    u, g = u.chunk(2, dim=-1)
    swish = F.silu(u) if beta == 1.0 else u * torch.sigmoid(beta * u)
    return swish * g


class Elementwise(NamedTuple):
    """The three, as a device runs them."""

    rotate: Callable[[Tensor, Tensor, Tensor], None] = rotate
    add_norm: Callable[[Tensor, Tensor | None, Norm, bool, torch.dtype], tuple[Tensor, Tensor]] = add_norm
    gate: Callable[[Tensor, float], Tensor] = gate


def _add_norm_cpu(
    x: Tensor, added: Tensor | None, norm: Norm, onward: bool, compute: torch.dtype
) -> tuple[Tensor, Tensor]:
    if added is None or added.dtype != torch.bfloat16:
        return add_norm(x, added, norm, onward, compute)
    return x, fused_cpu.add_norm(x, added, norm.weight, norm.bias, norm.eps, onward)


def elementwise_of(device: torch.device) -> Elementwise:
    """The three for a device."""
    if device.type == "cpu":
        return Elementwise(fused_cpu.rotate, _add_norm_cpu)
    return compiled() if device.type == "cuda" else Elementwise()


def compiled(compiler: Callable[..., Callable[..., Any]] = torch.compile) -> Elementwise:
    """The three compiled at their first call; if one cannot be, this is said once and all run as they stand."""
    works = [True]

    def attempt(plain: Callable[..., Any]) -> Callable[..., Any]:
        fast: list[Callable[..., Any]] = []

        def run(*arguments: Any) -> Any:
            if works:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # the compiler's, of its own parts and of what it could do too
                        if not fast:
                            fast.append(compiler(plain, dynamic=True))
                        return fast[0](*arguments)
                except Exception as error:  # no compiler, no Triton, a fault of either: each has errors of its own
                    if is_out_of_memory(error):
                        raise
                    works.clear()
                    reason = one_line(error)[:160]
                    note(f"note: torch.compile does not work here, going on without it, slower: {reason}")
            return plain(*arguments)

        return run

    return Elementwise(attempt(rotate), attempt(add_norm), attempt(gate))
