"""What a user's machine gives a command: address space, threads, folders to keep files in; said before it matters."""

from __future__ import annotations

import ctypes
import os
import sys

from crossllm.cache.console.environment import drop_empty, environment_problem
from crossllm.cache.console.messages import size_in_words
from crossllm.cache.console.progress import bar_class
from crossllm.cache.errors import InputError
from crossllm.folders import settle

LEAST = 3 << 29
"""Bytes of address space that a small training takes (measured); where there is less, LLVM aborts the process."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""
_MOST_FREE = (1 << 31) - 1


def prepare_machine() -> None:
    """Called by a command before it loads torch and Numba.

    Raises:
        InputError: a variable of the environment would make one of them fall over.
        MemoryError: the address space is too small to load them.
    """
    drop_empty()
    if (problem := environment_problem()) is not None:
        raise InputError(problem)
    if (most := address_space()) is not None and most < LEAST:
        raise MemoryError
    if any(name.startswith("TQDM_") for name in os.environ):
        bar_class()  # which leaves out what tqdm cannot read, before torch imports it
    settle()


def cores() -> int:
    """Cores that this process may use, or the threads that its user has set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def address_space() -> int | None:
    """Bytes that the process may map, as `ulimit -v` and a scheduler's h_vmem bound it; None: without a bound."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most


def bound_in_words() -> str:
    """What an error about memory adds where the address space is bounded, else nothing."""
    most = address_space()
    return "" if most is None else f" (`ulimit -v` or the scheduler bounds the address space to {size_in_words(most)})"


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees, up to 2 GiB, for its next tensors; glibc on Linux alone.

    Without it every tensor beyond 32 MiB is new memory, which Linux clears page by page at its first touch: an epoch of
    RPI1460 at residue level took 142 s, and 124 s with it.  It holds for the whole process, and for good.
    """
    if sys.platform != "linux" or (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is None:
        return
    mallopt(_M_MMAP_MAX, 0)  # no block of its own for any tensor, however large
    mallopt(_M_TRIM_THRESHOLD, _MOST_FREE)
