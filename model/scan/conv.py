"""Depthwise causal convolution on packed sequences, its window reset at every offset.

Without the reset a token would see the last tokens of the sequence packed before it.  With `reverse` the window looks
ahead instead of back: the causal convolution of the reversed sequence.

Shapes: T packed tokens, C channels, W width of the kernel.  `weight[:, -1]` multiplies the token itself, as in
`torch.nn.Conv1d` with left padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossllm.model.scan.backends import choose_backend
from crossllm.model.scan.layout import layout_of
from crossllm.model.scan.validation import check_beside, check_matrices


def causal_conv_reference(x: Tensor, weight: Tensor, bias: Tensor, offsets: Tensor, reverse: bool = False) -> Tensor:
    """One `conv1d` a sequence, in plain torch: what the packed version is tested against.  (T, C) → (T, C)."""
    width = weight.shape[1]
    outputs = []
    for sequence in torch.split(x, offsets.diff().tolist()):
        rows = sequence.flip(0) if reverse else sequence
        padded = F.pad(rows.t()[None], (width - 1, 0))  # (1, C, W−1+L)
        y = F.conv1d(padded, weight[:, None], bias, groups=len(weight))[0].t()
        outputs.append(y.flip(0) if reverse else y)
    return torch.cat(outputs)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor, offsets: Tensor, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """The same for all sequences at once, differentiable in x, weight and bias.

    Args:
        x: (T, C).
        weight: (C, W).
        bias: (C,).
        offsets: (S+1,) int64 on the CPU, from 0 to T, strictly increasing.
        reverse: look ahead instead of back.
        backend: as in `selective_scan`; `reference` here is W shifted products in plain torch, any type and device,
            and so is `mamba_ssm`, which is about the scan.

    Raises:
        ValueError: a shape, a type or a device does not fit x, a sequence is empty, or the backend cannot take these
            tensors.
    """
    check_matrices(x=x, weight=weight)
    channels = x.shape[1]
    check_beside("x", x, {"weight": (weight, (channels, weight.shape[1])), "bias": (bias, (channels,))})
    layout = layout_of(offsets, len(x))
    before, after = layout.before, layout.after
    chosen = choose_backend(x, backend)
    if chosen == "numba":
        from crossllm.model.scan.numba_conv import conv  # compiles, so only where it is used

        return conv(x, weight, bias, *((after, before) if reverse else (before, after)), reverse)
    if chosen == "triton":
        from crossllm.model.scan.triton_conv import conv as conv_on_gpu

        return conv_on_gpu(x, weight, bias, *((after, before) if reverse else (before, after)), reverse)
    return _shifted_products(x, weight, bias, (after if reverse else before).to(x.device), reverse)


def _shifted_products(x: Tensor, weight: Tensor, bias: Tensor, before: Tensor, reverse: bool) -> Tensor:
    """W shifted products, masked where the window leaves the sequence."""
    width = weight.shape[1]
    y = x * weight[:, -1] + bias
    for shift in range(1, width):
        inside = (before >= shift)[:, None]
        shifted = torch.roll(x, -shift if reverse else shift, 0)
        y = y + torch.where(inside, shifted, 0) * weight[:, -1 - shift]
    return y
