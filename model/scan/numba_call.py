"""How torch's tensors and threads reach a Numba kernel."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch.nn import functional as F

from crossllm.model.scan.simd import WIDTH
from crossllm.model.threads import kernel_threads


def flat(*tensors: torch.Tensor) -> list[np.ndarray]:
    """Each tensor as a one-dimensional array in C order; it shares the memory of a contiguous one."""
    return [x.detach().contiguous().view(-1).numpy() for x in tensors]


def addresses(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Where each tensor's values lie, for a kernel that takes many: handing over an array takes ten times as long.

    The caller holds the tensors as long as the kernel runs.

    Raises:
        ValueError: one of them is not contiguous float32 on the CPU, which a kernel would not notice.
    """
    for x in tensors:
        if x.dtype is not torch.float32 or not x.is_contiguous() or not x.is_cpu:
            raise ValueError(f"a kernel takes contiguous float32 on the CPU; got {x.dtype} on {x.device}")
    return tuple(x.data_ptr() for x in tensors)


def fresh(*shape: int) -> torch.Tensor:
    """An uninitialised float32 tensor that starts at a multiple of 64 bytes.

    NumPy gives the memory, since it asks Linux for huge pages: a kernel's outputs are new memory at every call, and
    with small pages the first touch of them took a third of the time of a long scan.
    """
    count = math.prod(shape)
    raw = np.empty(count + 16, np.float32)
    first = -raw.ctypes.data % 64 // 4
    return torch.from_numpy(raw[first : first + count].reshape(shape))


def to_registers(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Channels, the last dimension, up to a whole register of `WIDTH` lanes: those that are added stay zero."""
    spare = -tensors[0].shape[-1] % WIDTH
    return [F.pad(x.detach(), (0, spare)) if spare else x.detach() for x in tensors]


def use_threads(tasks: int | None = None) -> None:
    """Numba's kernels called from this thread take no more threads than `kernel_threads`, nor than there are tasks.

    Called before every kernel, since Numba counts by thread and torch's count may change.  When Numba starts its
    threads it sets OpenMP's count to all cores, and that is torch's count too: hence torch's is read first and put
    back.
    """
    count, own = torch.get_num_threads(), kernel_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined] # made at import
    numba.set_num_threads(min(own, most, tasks or own))
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
