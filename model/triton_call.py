"""How a Triton kernel is launched on the device of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def on_device_of_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `forward(ctx, x, …)` or `backward(ctx, x, …)` whose kernels run where `x` lies.

    Triton launches on the current CUDA device, whatever its tensors' device: those of cuda:1 would fault on cuda:0.
    Nothing is changed for a tensor on the CPU, where the interpreter runs.
    """

    @wraps(function)
    def run(ctx: Any, x: torch.Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            return function(ctx, x, *rest)

    return run
