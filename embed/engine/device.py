"""The device that `--device` names, what it can do, and the way to it and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.errors import InputError, one_line, printable

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "_ALLOC_FAILED")
"""Torch's allocator on Linux and on Windows; MPS and drivers; C++; cuBLAS and its kin, with memory of their own."""


def device_of(name: str) -> torch.device:
    """The device, tried with one number.

    Raises:
        InputError: there is no such device here.
    """
    try:
        device = torch.device(name)
        if torch.zeros(1, device=device).cpu().item() != 0:
            raise RuntimeError("it does not keep numbers")
    # torch has no class of its own for these, and imports what drives some devices only now.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = one_line(error).split(". ")[0]
        raise InputError(f"--device {printable(name)}: {reason}; `cpu` always works") from None
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes products of bfloat16 in hardware, not by float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if (capabilities := getattr(torch.cpu, "get_capabilities", None)) is None:  # torch 2.10 has no public way
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    found = capabilities()
    # On macOS torch hands products to Accelerate, which has none of bfloat16 whatever the processor can do.
    arm = sys.platform == "linux" and found.get("bf16", False)
    return bool(found.get("avx512_bf16", False) or found.get("amx_bf16", False) or arm)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory; torch has a class of its own for CUDA only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def give_back_memory(device: torch.device) -> None:
    """What torch keeps for later goes back to the device: pieces too small for what comes may make room together."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array there; on CUDA by way of pinned memory, and without waiting."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and torch.cuda.is_available():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fetch(rows: Tensor, stored: torch.dtype) -> Callable[[], np.ndarray]:
    """Begin to bring rows (T, D) float32 to the host; the function returned waits for them.

    From CUDA they come in the type in which they are stored, half the bytes where that is float16.  Where a value does
    not fit in it they come as they are, for the writer to see what it was.
    """
    if rows.device.type == "cuda":
        return _fetch_ahead(rows, stored)
    found = rows.cpu().numpy()
    return lambda: found


def _fetch_ahead(rows: Tensor, stored: torch.dtype) -> Callable[[], np.ndarray]:
    narrow = rows.to(stored)
    host, fits = _pinned(narrow.shape, stored), _pinned((), torch.bool)
    host.copy_(narrow, non_blocking=True)
    fits.copy_(narrow.isfinite().all(), non_blocking=True)
    wait = _mark(rows.device)

    def arrived() -> np.ndarray:
        wait()
        return host.numpy() if fits.item() else rows.cpu().numpy()

    return arrived


def _pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _mark(device: torch.device) -> Callable[[], object]:
    """Waits until a CUDA device has done all that it has been given so far."""
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(device))
    return done.synchronize
