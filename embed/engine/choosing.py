"""`--compute auto`: which type the products of a model are faster in, on this device, by doing a few of them.

A processor's flags say what it can do, not how fast: where bfloat16 runs through AVX-512 alone it was measured from
half to nearly twice as fast as float32.  Only the speed is measured here; the type, once taken, is in the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from crossllm.embed.engine.device import device_of, has_bfloat16
from crossllm.embed.engine.linear import Linear, packed
from crossllm.embed.engine.mlstm import Stack

if TYPE_CHECKING:
    from crossllm.embed.engine.transformer import Design

ROWS = 256
"""Tokens of a product: enough that reading the matrix is not all of it."""
REPEATS = 5
WORTH = 1.1
"""Times as fast as float32 that bfloat16 must be: it is the less exact, and a measurement is never quite the same."""


class Choice(NamedTuple):
    """A type for the products, and why."""

    compute: str
    why: str


def choose_compute(design: Design | Stack, device: str) -> Choice:
    """bfloat16 where the device is faster in it, for matrices of this model's own shapes; else float32.

    Raises:
        InputError: there is no such device.
    """
    there = device_of(device)
    if not has_bfloat16(there):
        return Choice("float32", f"{device} has no bfloat16 of its own")
    found = times(design, there)
    ratio = found["float32"] / found["bfloat16"]
    took = f"{found['bfloat16'] * 1e3:.3g} ms against {found['float32'] * 1e3:.3g} ms"
    why = f"a layer's products of {ROWS} tokens take {took} in float32, {ratio:.2g} × as fast"
    return Choice("bfloat16" if ratio >= WORTH else "float32", f"in bfloat16 {why}")


def times(design: Design | Stack, device: torch.device) -> Mapping[str, float]:
    """Type → seconds of the products of one layer, the least of a few; of a recurrent one, those of a step."""
    width = design.width
    if isinstance(design, Stack):
        shapes = [(width, width), (4 * width, width)]
    else:
        inner = design.inner * (2 if design.gated else 1)
        shapes = [(3 * width, width), (width, width), (inner, width), (width, design.inner)]
    return {
        str(kind).removeprefix("torch."): _seconds(shapes, kind, device) for kind in (torch.float32, torch.bfloat16)
    }


@torch.inference_mode()
def _seconds(shapes: list[tuple[int, int]], compute: torch.dtype, device: torch.device) -> float:
    made = torch.Generator().manual_seed(0)
    products = []
    for out, into in shapes:
        row = torch.randn(into, generator=made).to(compute)
        weight, x = row.expand(out, into).contiguous().to(device), row.expand(ROWS, into).contiguous().to(device)
        products.append((packed(Linear(weight, None)), x))
    least = float("inf")
    for _ in range(1 + REPEATS):  # the first one only warms up, and is never the least
        begun = time.perf_counter()
        last = [product(x) for product, x in products][-1]
        last[-1, -1].item()  # which waits for the device
        least = min(least, time.perf_counter() - begun)
    return least
