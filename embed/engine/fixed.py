"""Products and attention in calls of one shape, so that a row does not depend on what is computed beside it.

A library chooses how it sums by the size of a call and by the number of threads, so a row's last bits can move with the
batch.  Here a product takes `ROWS` rows a call, the last call filled up with zeros, and attention one sequence; each
call has one thread, and the threads share the calls, not their insides.
Shapes: T packed tokens, H heads, L letters of a sequence, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossllm.embed.engine.attention import Attention, Packing
from crossllm.embed.engine.linear import Linear, Packed, packed

ROWS = 256
"""Rows of a call: enough that reading the matrix is not all of it.  Another number is another recipe."""
TOGETHER = 512
"""Letters up to which one call takes all heads of a sequence; beyond, one call a head, for more threads to share."""


class FixedProduct(NamedTuple):
    """A product in calls of `ROWS` rows."""

    product: Linear | Packed
    width: int
    """Of a row that comes out."""

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) → (T, out)."""
        return self._by_calls(self.product.__call__, x)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the product."""
        return self._by_calls(self.product.gelu, x)

    def _by_calls(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        out = torch.empty(len(x), self.width, dtype=x.dtype)

        def call(number: int) -> None:
            own = x[number * ROWS : (number + 1) * ROWS]
            filled = own if len(own) == ROWS else F.pad(own, (0, 0, 0, ROWS - len(own)))
            out[number * ROWS : number * ROWS + len(own)] = compute(filled)[: len(own)]

        share(call, [1] * -(-len(x) // ROWS))
        return out


def fixed(linear: Linear) -> FixedProduct:
    """A product of a matrix on the CPU, in calls of one shape."""
    return FixedProduct(packed(linear), len(linear.weight))


def _by_sequence(qkv: Tensor, packing: Packing) -> Tensor:
    """Torch's SDPA, a call for each sequence, whose shape goes by its own length alone."""
    out, heads = torch.empty_like(qkv[:, 0]), qkv.shape[2]
    calls: list[tuple[slice, slice]] = []
    weights: list[int] = []
    start = 0
    for length in packing.lengths:
        step = heads if length <= TOGETHER else 1
        calls += [(slice(start, start + length), slice(head, head + step)) for head in range(0, heads, step)]
        weights += [step * length * (length + qkv.shape[-1])] * (heads // step)
        start += length

    def call(number: int) -> None:
        rows, some = calls[number]
        q, k, v = qkv[rows, :, some].permute(1, 2, 0, 3).unsqueeze(1)  # (L, 3, H, K) → three of (1, H, L, K)
        out[rows, some] = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)

    share(call, weights)
    return out


BY_SEQUENCE = Attention("SDPA, a call a sequence", _by_sequence, None)


def share(call: Callable[[int], None], weights: Sequence[int]) -> None:
    """Do the calls 0 … n − 1 on as many threads as torch has here, each with one thread of its own.

    Args:
        call: does one of them.
        weights: of each call; a thread takes neighbours of about its share of them.
    """
    threads = torch.get_num_threads()
    total = np.cumsum(weights)
    ends = np.searchsorted(total, np.arange(1, threads) * (total[-1] / threads)).tolist()
    cuts = [0, *ends, len(weights)]

    @torch.inference_mode()
    def part(number: int) -> None:
        for n in range(cuts[number], cuts[number + 1]):
            call(n)

    waiting = [_helpers(threads - 1).submit(part, n) for n in range(1, threads) if cuts[n] < cuts[n + 1]]
    torch.set_num_threads(1)
    try:
        part(0)
    finally:
        torch.set_num_threads(threads)
        errors = [done.exception() for done in waiting]  # which waits: no one writes into a tensor that is let go
    if error := next(filter(None, errors), None):
        raise error


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    def one_thread() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the count of all, and must not come later
        torch.set_num_threads(1)

    return ThreadPoolExecutor(count, "products", one_thread)
