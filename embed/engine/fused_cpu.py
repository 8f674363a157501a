"""What lies between the matrix products on a CPU, each in one pass over memory: rotation, and sum + norm + cast.

Torch does these in four to eight passes, which took as long as the products themselves.  The plain
versions are `rotate` and `add_norm` of `crossllm.embed.engine.elementwise`; a test holds these to them.
bfloat16 has no NumPy type: its bits are the upper half of a float32's, and lie here in uint16.
Shapes: T packed tokens, D width, H heads, K = D / H.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from crossllm.kernels import kernel


@njit(inline="always")
def _narrow(bits: np.uint32) -> np.uint16:
    """A float32's bits rounded to bfloat16, to the nearest, ties to even; what is not a number stays none."""
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
        return np.uint16((bits >> np.uint32(16)) | np.uint32(0x40))
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@kernel(parallel=True, fastmath={"contract"})
def _rotate_bfloat16(qkv, cos, sin):  # (T, 3, H, K) uint16; (T, K / 2) float32 each
    half = cos.shape[1]
    for t in prange(qkv.shape[0]):
        wide = np.empty(2 * half, np.uint32)
        values = wide.view(np.float32)
        turned = np.empty(2 * half, np.float32)
        bits = turned.view(np.uint32)
        for part in range(2):
            for head in range(qkv.shape[2]):
                row = qkv[t, part, head]
                for i in range(2 * half):
                    wide[i] = np.uint32(row[i]) << np.uint32(16)
                for i in range(half):
                    a, b = values[i], values[half + i]
                    turned[i] = a * cos[t, i] - b * sin[t, i]
                    turned[half + i] = b * cos[t, i] + a * sin[t, i]
                for i in range(2 * half):
                    row[i] = _narrow(bits[i])


@kernel(parallel=True, fastmath={"contract"})
def _rotate_float32(qkv, cos, sin):  # (T, 3, H, K) float32
    half = cos.shape[1]
    for t in prange(qkv.shape[0]):
        for part in range(2):
            for head in range(qkv.shape[2]):
                row = qkv[t, part, head]
                for i in range(half):
                    a, b = row[i], row[half + i]
                    row[i] = a * cos[t, i] - b * sin[t, i]
                    row[half + i] = b * cos[t, i] + a * sin[t, i]


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate q and k of (T, 3, H, K) in place; `cos` and `sin` are (T, K / 2) float32."""
    if qkv.dtype == torch.bfloat16:
        _rotate_bfloat16(qkv.view(torch.uint16).numpy(), cos.numpy(), sin.numpy())
    else:
        _rotate_float32(qkv.numpy(), cos.numpy(), sin.numpy())


@kernel(parallel=True, fastmath={"contract", "reassoc"})
def _add_norm(x, added, weight, bias, eps, onward, out):
    # x (T, D) float32; added, out (T, D) uint16; weight, bias (D) float32
    width = x.shape[1]
    for t in prange(x.shape[0]):
        row = x[t]
        wide = np.empty(width, np.uint32)
        values = wide.view(np.float32)
        for i in range(width):
            wide[i] = np.uint32(added[t, i]) << np.uint32(16)
        total = np.float32(0)
        for i in range(width):
            row[i] += values[i]
            total += row[i]
        mean = total / np.float32(width)
        squares = np.float32(0)
        for i in range(width):
            squares += (row[i] - mean) * (row[i] - mean)
        scale = np.float32(1) / np.sqrt(squares / np.float32(width) + np.float32(eps))
        for i in range(width):
            values[i] = (row[i] - mean) * scale * weight[i] + bias[i]
        if onward:
            for i in range(width):
                row[i] = values[i]
        for i in range(width):
            out[t, i] = _narrow(wide[i])


def add_norm(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float, onward: bool) -> Tensor:
    """Add `added` (T, D) bfloat16 to `x` (T, D) float32 in place; the layer norm of the sum, (T, D) bfloat16.

    With `onward` the norm takes the place of the sum in `x`.
    """
    out = torch.empty_like(added)
    bits = (added.view(torch.uint16).numpy(), out.view(torch.uint16).numpy())
    _add_norm(x.numpy(), bits[0], weight.numpy(), bias.numpy(), eps, onward, bits[1])
    return out


def use_threads() -> None:
    """Kernels of this module called from this thread take no more threads than torch does.

    When Numba starts its threads it sets OpenMP's count to all cores, and that is torch's count too: hence torch's is
    read first and put back.
    """
    count = torch.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined] # made at import
    numba.set_num_threads(min(count, most))
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
