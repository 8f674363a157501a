"""How torch's tensors and threads reach a Numba kernel."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch


def flat(*tensors: torch.Tensor) -> list[np.ndarray]:
    """Each tensor as a one-dimensional array in C order; it shares the memory of a contiguous one."""
    return [x.detach().contiguous().view(-1).numpy() for x in tensors]


def fresh(*shape: int) -> torch.Tensor:
    """An uninitialised float32 tensor that starts at a multiple of 64 bytes.

    NumPy gives the memory, since it asks Linux for huge pages: a kernel's outputs are new memory at every call, and
    with small pages the first touch of them took a third of the time of a long scan.
    """
    count = math.prod(shape)
    raw = np.empty(count + 16, np.float32)
    first = -raw.ctypes.data % 64 // 4
    return torch.from_numpy(raw[first : first + count].reshape(shape))


def use_threads() -> None:
    """Numba's kernels called from this thread take no more threads than torch does.

    Called before every kernel, since Numba counts by thread and torch's count may change.  When Numba starts its
    threads it sets OpenMP's count to all cores, and that is torch's count too: hence torch's is read first and put
    back.
    """
    count = torch.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined] # made at import
    numba.set_num_threads(min(count, most))
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
