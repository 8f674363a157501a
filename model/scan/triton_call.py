"""How a Triton kernel is launched on the device of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def on_device_of_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose kernels run where the first tensor that it is given lies.

    Triton launches on the current CUDA device, whatever its tensors' device: those of cuda:1 would fault on cuda:0.
    Nothing is changed for a tensor on the CPU, where the interpreter runs.
    """

    @wraps(function)
    def run(*given: Any) -> Any:
        tensors = (x[0] if isinstance(x, tuple) else x for x in given)  # a kernel's inputs come as one
        first = next(x for x in tensors if isinstance(x, torch.Tensor))
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            return function(*given)

    return run
