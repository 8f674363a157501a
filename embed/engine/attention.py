"""Attention inside each sequence of a packed batch: the kernels there are for it, and where the sequences lie.

On CUDA in half precision one kernel takes the whole batch with its offsets (torch's `varlen_attn`, or flash-attn's
function of the same arguments).  Elsewhere torch's SDPA takes neighbours of equal length in one call; on a device where
a call costs more than some padding, neighbours of nearly equal length.  A varlen kernel is taken only if it
gives SDPA's numbers on a small batch, on this device and at this width: what it refuses differs by version and device.
Shapes: T packed tokens, H heads, K width of a head, B sequences of a block, L its longest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossllm.embed.engine.device import to_device

PADDING = 0.125
"""Padded tokens a token of a block, at most, on a device where calls are dear."""


class Block(NamedTuple):
    """Neighbouring sequences that lie in one call of SDPA, as (B, L)."""

    start: int
    """Its rows are `start` … `stop` − 1 of the batch."""
    stop: int
    sequences: int
    length: int
    padded: tuple[Tensor, Tensor, Tensor] | None
    """None for equal lengths.  Else (B · L,) the row that fills each place, counted from `start`; (rows,) the place of
    each row; (B, 1, 1, L) True where a place is not padding."""


class Packing(NamedTuple):
    """Where the sequences of a batch lie."""

    lengths: tuple[int, ...]
    places: Tensor
    """(T,) each token's place in its sequence, from 0."""
    rotation: tuple[Tensor, Tensor] | None
    """Cosine and sine, (T, K / 2), of rotary positions."""
    offsets: Tensor
    """(sequences + 1,) int32, from 0 to T."""
    blocks: tuple[Block, ...]
    """Empty for a kernel that goes by the offsets."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], device: torch.device, rotary: int | None = None, padding: float | None = 0.0
    ) -> Packing:
        """The packing of sequences of these lengths.

        Args:
            lengths: each at least 1.
            device: of the batch.
            rotary: width K of a head whose q and k are rotated by their place; None: they are not.
            padding: of `blocks`; None: there are none.
        """
        ends = np.cumsum([0, *lengths])
        places = to_device(np.arange(ends[-1]) - np.repeat(ends[:-1], lengths), device)
        rotation = None
        if rotary is not None:
            speeds = 10000.0 ** (-torch.arange(0, rotary, 2, dtype=torch.float32, device=device) / rotary)
            angles = places[:, None] * speeds
            rotation = angles.cos(), angles.sin()
        cut = () if padding is None else tuple(_block(run, start, device) for start, run in _runs(lengths, padding))
        return cls(tuple(lengths), places, rotation, to_device(ends.astype(np.int32), device), cut)


def _runs(lengths: Sequence[int], padding: float) -> Iterator[tuple[int, Sequence[int]]]:
    """First row and lengths of neighbours that need at most so many padded tokens a token to lie in one block."""
    start = first = rows = longest = 0
    for n, length in enumerate(lengths):
        wider = max(longest, length)
        if n > first and wider * (n + 1 - first) > (1 + padding) * (rows + length):
            yield start, lengths[first:n]
            start, first, rows, wider = start + rows, n, 0, length
        rows, longest = rows + length, wider
    yield start, lengths[first:]


def _block(lengths: Sequence[int], start: int, device: torch.device) -> Block:
    count, length, rows = len(lengths), max(lengths), sum(lengths)
    padded = None
    if rows < count * length:
        real = np.arange(length) < np.array(lengths)[:, None]  # (B, L)
        taken = np.zeros(real.shape, np.int64)  # padding repeats the first row, and is never looked at
        taken[real] = np.arange(rows)
        parts = taken.ravel(), np.flatnonzero(real), real[:, None, None]
        padded = to_device(parts[0], device), to_device(parts[1], device), to_device(parts[2], device)
    return Block(start, start + rows, count, length, padded)


class Attention(NamedTuple):
    """One way to attend."""

    name: str
    attend: Callable[[Tensor, Packing], Tensor]
    """q, k and v (T, 3, H, K) of a batch → (T, H, K)."""
    padding: float | None
    """What `Packing.of` is to be told."""


def by_blocks(qkv: Tensor, packing: Packing) -> Tensor:
    """Torch's SDPA, one call a block of the packing."""
    out = torch.empty_like(qkv[:, 0])
    for block in packing.blocks:
        own, mask = qkv[block.start : block.stop], None
        if block.padded is not None:
            take, places, mask = block.padded
            own = own.index_select(0, take)
        # (B L, 3, H, K) → three of (B, H, L, K)
        q, k, v = own.view(block.sequences, block.length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)
        mixed = mixed.reshape(block.sequences * block.length, *out.shape[1:])
        out[block.start : block.stop] = mixed if block.padded is None else mixed.index_select(0, places)
    return out


def by_offsets(kernel: Callable[..., Any]) -> Callable[[Tensor, Packing], Tensor]:
    """One call of a kernel that takes q, k, v (T, H, K), and twice the offsets and twice the greatest length."""

    def attend(qkv: Tensor, packing: Packing) -> Tensor:
        q, k, v = qkv.unbind(1)
        longest = max(packing.lengths)
        mixed: Tensor = kernel(q, k, v, packing.offsets, packing.offsets, longest, longest)
        return mixed

    return attend


CPU = Attention("SDPA", by_blocks, 0.0)
PADDED = Attention("SDPA, padded blocks", by_blocks, PADDING)


def varlen_kernels() -> Iterator[Attention]:
    """Those installed here, the best first; whether one runs on a device is another matter."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # a torch built without it
        pass
    else:
        if "num_splits" in signature(varlen_attn).parameters:
            # One split, so that a sequence's numbers do not depend on the longest of its batch; ROCm refuses it.
            yield Attention("torch varlen_attn, one split", by_offsets(partial(varlen_attn, num_splits=1)), None)
        yield Attention("torch varlen_attn", by_offsets(varlen_attn), None)
    try:
        flash_attn = importlib.import_module("flash_attn")
    except (ImportError, OSError):  # not installed, or built for another torch
        return
    yield Attention("flash-attn", by_offsets(flash_attn.flash_attn_varlen_func), None)


def choose(device: torch.device, compute: torch.dtype, heads: int, width: int) -> Attention:
    """The fastest way to attend on a device, for heads of a width K."""
    if device.type == "cpu":
        return CPU
    if device.type == "cuda" and compute in (torch.float16, torch.bfloat16):
        return first_that_agrees(varlen_kernels(), device, compute, heads, width)
    return PADDED


def first_that_agrees(
    kernels: Iterator[Attention], device: torch.device, compute: torch.dtype, heads: int, width: int
) -> Attention:
    """The first that gives SDPA's numbers on a small batch, else SDPA over padded blocks."""
    lengths = (3, 1, 17, 9)
    made = torch.randn(sum(lengths), 3, heads, width, generator=torch.Generator().manual_seed(0))
    qkv = made.to(device, compute)
    expected = by_blocks(qkv, Packing.of(lengths, device))
    for kernel in kernels:
        try:
            found = kernel.attend(qkv, Packing.of(lengths, device, padding=kernel.padding))
        except Exception:  # each has errors of its own for a width, type or device it does not take
            continue
        # Half precision differs by some 1 % of the largest value, a kernel that reads another sequence by all of it.
        if found.shape == expected.shape and float((found - expected).abs().max()) < 0.05 * float(expected.abs().max()):
            return kernel
    return PADDED
