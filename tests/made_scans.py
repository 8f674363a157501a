"""Random inputs of a scan, and how tests run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossllm.model.scan.selective_scan import selective_scan


def make(rng: np.random.Generator, lengths: list[int], channels: int, states: int) -> tuple[list[Tensor], Tensor]:
    """Inputs of a scan as a trained model has them, float64, and their offsets."""
    offsets = torch.tensor(np.cumsum([0, *lengths]))
    tokens = int(offsets[-1])

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    inputs = [normal(tokens, channels), F.softplus(normal(tokens, channels) - 2), -torch.exp(normal(channels, states)),
              normal(tokens, states), normal(tokens, states), normal(channels)]  # fmt: skip
    return inputs, offsets


def gradients(
    inputs: list[Tensor], offsets: Tensor, reverse: bool, backend: str, dy: Tensor
) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = selective_scan(*leaves, offsets, reverse, backend)
    return y.detach(), list(torch.autograd.grad(y, leaves, dy))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's count of threads for a while: the kernels follow it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
