"""Which code runs the selective scan and the convolution: `auto` chooses, a name that cannot be had says what to do.

reference   plain torch, any float type, any device
numba       CPU, float32
triton      CUDA; needs the package triton, which comes with torch's CUDA builds; no compiler of NVIDIA's
mamba_ssm   CUDA, mamba_ssm's own kernel for the scan; needs the package mamba-ssm
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from crossllm.model.settings import BACKENDS

PACKAGES = {"triton": "pip install triton", "mamba_ssm": "pip install mamba-ssm causal-conv1d"}
"""What a backend needs beside the project's own dependencies."""


class SlowScanWarning(UserWarning):
    """`auto` runs the scan step by step on CUDA, since Triton is not installed."""


def choose_backend(x: Tensor, backend: str = "auto") -> str:
    """The backend for a tensor like `x`; `auto` takes triton on CUDA, numba for float32 on the CPU, else reference.

    Warns:
        SlowScanWarning: `auto` would take triton, which is not installed; once a process, one line.

    Raises:
        ValueError: the name is not known, its package is not installed, or it cannot take such a tensor.  One line.
    """
    if backend == "auto":
        chosen = default_backend(x.device, x.dtype)
        if chosen == "reference" and x.device.type == "cuda" and x.dtype != torch.float64:
            _warn_of_slow_scan()
        return chosen
    if backend not in BACKENDS:
        raise ValueError(f"scan backend '{backend}' is not known; one of: auto, {', '.join(BACKENDS)}")
    if backend in PACKAGES and find_spec(backend) is None:
        raise ValueError(f"scan backend {backend} is not installed; {PACKAGES[backend]}, or use auto")
    on_cpu, on_cuda = x.device.type == "cpu", x.device.type == "cuda"
    if backend == "numba" and not (on_cpu and x.dtype == torch.float32):
        raise ValueError(f"scan backend numba takes float32 on the CPU; got {x.dtype} on {x.device}; use reference")
    if backend == "triton" and x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"scan backend triton takes float32, bfloat16 or float16; got {x.dtype}; use reference")
    if backend in PACKAGES and not (on_cuda or (backend == "triton" and on_cpu and interpreted())):
        raise ValueError(f"scan backend {backend} needs a CUDA device; got {x.device}; use auto")
    return backend


def default_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """What `auto` takes on a device: for a run's log."""
    if device.type == "cpu" and dtype == torch.float32:
        return "numba"
    if device.type == "cuda" and dtype != torch.float64 and find_spec("triton") is not None:
        return "triton"
    return "reference"


@cache
def _warn_of_slow_scan() -> None:
    text = f"scan runs step by step on CUDA, since triton is not installed; {PACKAGES['triton']}"
    warnings.warn(text, SlowScanWarning, stacklevel=3)


def interpreted() -> bool:
    """Triton's kernels are run by its interpreter, on the CPU: how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
