"""What can be told of the machine without loading a library: Python, cores, memory, folders, disk."""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from crossllm.cache.console.environment import environment_problem
from crossllm.cache.console.machine import LEAST, address_space
from crossllm.cache.console.messages import size_in_words
from crossllm.cache.console.version import version_in_words
from crossllm.cache.errors import one_line
from crossllm.checks import Check
from crossllm.folders import can_be_written
from crossllm.kernels import place_for
from crossllm.pipeline.doctor.control_group import cpu_quota, memory_bound

_SECTION = "machine"
_LITTLE = 1 << 30
"""Bytes of free disk below which a run of a language model soon has none."""


def check_machine(folder: Path) -> Iterator[Check]:
    """All of it.

    Args:
        folder: the cache, or where the user is: its disk is looked at.
    """
    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    yield Check(_SECTION, "crossllm", "ok", version_in_words())
    yield Check(_SECTION, "python", "ok", python)
    if (problem := environment_problem()) is not None:
        what, _, mend = problem.partition("; ")
        yield Check(_SECTION, "environment", "broken", what, mend)
    looks: dict[str, Callable[[], Check]] = {
        "cores": _cores,
        "memory": _memory,
        "temporary files": _temporary,
        "kernels": _kernels,
    }
    looks["disk"] = partial(_disk, folder)
    for name, look in looks.items():
        try:
            yield look()
        except OSError as error:  # a folder at hand that is gone, a disk that does not answer
            yield Check(_SECTION, name, "improve", f"cannot be told: {one_line(error)}", needed=False)


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, and no more than its control group's quota."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def _cores() -> Check:
    quota, all_of_them = cpu_quota(), os.cpu_count() or 1
    bound = "" if quota is None else f", the control group allows {quota:g} cores' worth of time"
    return Check(_SECTION, "cores", "ok", f"{usable_cores()} of {all_of_them}{bound}")


def _memory() -> Check:
    bounds = {"the machine has": _physical(), "the control group allows": memory_bound()}
    said = ", ".join(f"{what} {size_in_words(size)}" for what, size in bounds.items() if size is not None)
    space = address_space()
    if space is not None:
        said += f"{', ' * bool(said)}`ulimit -v` or the scheduler {size_in_words(space)} of address space"
    if space is not None and space < LEAST:
        mend = f"ulimit -v unlimited, or ask the scheduler for {size_in_words(LEAST)} or more"
        return Check(_SECTION, "memory", "broken", said, mend)
    return Check(_SECTION, "memory", "ok", said or "not told by the system")


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _temporary() -> Check:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        said = f"no file can be written: {error.strerror or error}"
        return Check(_SECTION, "temporary files", "broken", said, "export TMPDIR=FOLDER, one that can be written")
    return Check(_SECTION, "temporary files", "ok", f"{folder}, {size_in_words(shutil.disk_usage(folder).free)} free")


def _kernels() -> Check:
    """Where compiled kernels are kept, as `crossllm.kernels` chooses it for those of the scan."""
    model = find_spec("crossllm.model")
    assert model is not None
    assert model.origin is not None
    source = Path(model.origin).parent / "scan" / "numba_kernels.py"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        place = place_for(source, os.environ.get("NUMBA_CACHE_DIR", ""))
    what = "; ".join(str(warning.message) for warning in said)
    if place is None or what:
        mend = "export NUMBA_CACHE_DIR=FOLDER, one that can be written and stays"
        return Check(_SECTION, "kernels", "improve", what, mend, needed=False)
    return Check(_SECTION, "kernels", "ok", f"kept in {place or source.parent / '__pycache__'}", needed=False)


def _disk(folder: Path) -> Check:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{size_in_words(free)} free at {folder.resolve()}"
    if not can_be_written(folder):
        mend = "check the folder's permissions; commands that only read still work"
        return Check(_SECTION, "disk", "improve", f"{folder.resolve()} cannot be written", mend, needed=False)
    if free < _LITTLE:
        return Check(_SECTION, "disk", "improve", said, "free some space before you embed", needed=False)
    return Check(_SECTION, "disk", "ok", said)
