"""The matrix products, and on a CPU the matrices laid out for oneDNN once, when they are loaded.

`F.linear` lays a bfloat16 matrix out again at every call, and in float32 goes by MKL, which on a processor that is not
Intel's takes more than twice oneDNN's time.  The functions that do without are torch's own and private (its
compiler calls them), so they are taken only where they give the plain product's numbers for a matrix of that shape.
Shapes: T packed tokens.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest difference of two products over the largest value; a wrong layout is off by as much as that value."""


class Linear(NamedTuple):
    """A matrix (out, in) in the type it is computed in, and its bias."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) → (T, out)."""
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the product."""
        return F.gelu(self(x))


class Packed(NamedTuple):
    """The same, the matrix in oneDNN's layout; GELU is taken of the sums before they are rounded."""

    weight: Tensor
    """Opaque: only oneDNN can read it."""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) → (T, out)."""
        return self._product(x, "none", "")

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the product."""
        return self._product(x, "gelu", "none")  # none: by erf, not by tanh

    def _product(self, x: Tensor, then: str, how: str) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], how)
        return found


def packed(linear: Linear) -> Linear | Packed:
    """The fastest form of a product where its matrix lies."""
    weight = linear.weight
    if weight.device.type != "cpu" or not _agrees(tuple(weight.shape), weight.dtype):
        return linear
    return _laid_out(linear)


def _laid_out(linear: Linear) -> Packed:
    return Packed(torch.ops.mkldnn._reorder_linear_weight(linear.weight), linear.bias)


@cache
def _agrees(shape: tuple[int, int], compute: torch.dtype) -> bool:
    """Whether oneDNN gives the plain product's numbers for matrices of this shape and type."""
    made = torch.Generator().manual_seed(0)
    plain = Linear(*(torch.randn(size, generator=made).to(compute) for size in (shape, shape[:1])))
    try:
        own = _laid_out(plain)
        for rows in (1, 19):
            x = torch.randn(rows, shape[1], generator=made).to(compute)
            pairs = (own(x), plain(x)), (own.gelu(x), plain.gelu(x))
            if not all(_close(found, expected) for found, expected in pairs):
                return False
    except Exception:  # a torch without them or with other arguments, a processor they are not for
        return False
    return True


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    return float((found - expected).abs().max()) < CLOSE[expected.dtype] * float(expected.abs().max())
