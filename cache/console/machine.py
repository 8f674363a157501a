"""What a user's machine gives a command: address space, threads, folders to keep files in; said before it matters."""

from __future__ import annotations

import os

from crossllm.cache.console.environment import drop_empty, environment_problem
from crossllm.cache.console.messages import size_in_words
from crossllm.cache.console.progress import bar_class
from crossllm.cache.errors import InputError
from crossllm.folders import settle

LEAST = 3 << 29
"""Bytes of address space that a small training takes (measured); where there is less, LLVM aborts the process."""


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
