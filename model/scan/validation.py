"""What the scan and the convolution refuse before a backend sees it: kernels read memory by these shapes and types."""

from __future__ import annotations

import torch
from torch import Tensor


def check_offsets(offsets: Tensor, tokens: int) -> None:
    """Raise `ValueError` unless `offsets` cuts `tokens` packed tokens into sequences of at least one."""
    if offsets.dtype != torch.int64 or offsets.device.type != "cpu" or offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError("offsets must be a one-dimensional int64 tensor on the CPU with at least two entries")
    values = offsets.numpy()
    if values[0] != 0 or values[-1] != tokens or not (values[1:] > values[:-1]).all():
        raise ValueError(
            f"offsets must rise strictly from 0 to {tokens}, the packed tokens; empty sequences are refused"
        )


def check_matrices(**tensors: Tensor) -> None:
    """Raise `ValueError` unless each of these is two-dimensional and has columns."""
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or tensor.shape[1] == 0:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; expected two dimensions, the second at least 1")


def check_beside(leader: str, x: Tensor, expected: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Raise `ValueError` unless each tensor has its shape, and the type and the device of `x`, named `leader`."""
    for name, (tensor, shape) in expected.items():
        if (tuple(tensor.shape), tensor.dtype, tensor.device) != (shape, x.dtype, x.device):
            found = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} is {found}; expected {shape} {x.dtype} on {x.device} beside {leader}")
