"""Numba's kernels: compiled where they are used first, and kept for the next process where a place can be written.

`@numba.njit(cache=True)` raises at import where neither the package's folder nor the user's cache folder can be
written (a module of a cluster, a container without a home), and makes a folder called `~` where there is no home.
All kernels go through `kernel`, which never does either.  They stand in `model`, `embed` and `pipeline`, and none of
the first two may import the other; so this lies beneath the four folders, with the import name itself, and imports
none of ours but its neighbour `folders`.  A variable set by the programs alone would leave out whoever imports
`crossllm.model` in a script of their own, and would move the kernels of the user's own packages too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from crossllm.folders import can_be_written, temporary, user_cache

THREADS = "NUMBA_NUM_THREADS"
LAYERS = ("default", "workqueue", "omp", "safe", "threadsafe", "forksafe")
"""Of Numba's threads; tbb is not among them, as its library is seldom there."""


class KernelsNotKept(UserWarning):
    """Kernels are kept in a temporary folder, or compiled again in every process; once a process, one line."""


def thread_problem() -> str | None:
    """What is wrong with a variable at which Numba, or a kernel, would fall over; None where all is well."""
    text = os.environ.get(THREADS, "1").strip() or "1"
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        return f"{THREADS}={text[:60]!r}: a number of threads, 1 or more, is expected; correct the variable or unset it"
    if os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0"):
        return "NUMBA_DISABLE_JIT: the kernels of this program are compiled code and cannot run without; unset it"
    layer = os.environ.get("NUMBA_THREADING_LAYER", "default").strip() or "default"
    if layer not in LAYERS:
        return f"NUMBA_THREADING_LAYER={layer[:60]!r}: one of {', '.join(LAYERS)} is expected; correct it or unset it"
    order = os.environ.get("NUMBA_THREADING_LAYER_PRIORITY", "").split()
    if order and not {"omp", "workqueue"} & set(order):
        return "NUMBA_THREADING_LAYER_PRIORITY: names neither omp nor workqueue; add one of them or unset it"
    return None


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(**options)`, whose machine code is kept where there is a place for it (`place_for`)."""

    def compiled(function: Callable[..., Any]) -> Any:
        if not os.environ.get(THREADS, "1").strip():
            del os.environ[THREADS]  # empty, as an unset variable of a script leaves it; Numba warns of it in ten lines
        import numba

        config: Any = numba.config
        dispatcher: Any = numba.njit(**options)(function)
        place = None if config.DISABLE_JIT else place_for(Path(function.__code__.co_filename), config.CACHE_DIR)
        if place is not None:
            # Numba reads the setting when a function's cache is made, and at no other time.
            before, config.CACHE_DIR = config.CACHE_DIR, place
            try:
                dispatcher._cache = _forgiving(function)
            except (RuntimeError, OSError):  # gone since it was looked at
                _say("are compiled again in every process: no folder for them can be written")
            finally:
                config.CACHE_DIR = before
        return dispatcher

    return compiled


def place_for(file: Path, named: str = "") -> str | None:
    """Where the kernels of a source file are kept; "" is its own `__pycache__`, None nowhere.

    `$NUMBA_CACHE_DIR`; the file's own `__pycache__`; the user's cache folder (until here as Numba has it); a temporary
    folder of the user's own; nowhere.  What cannot be written is passed over, the last two with a `KernelsNotKept`.

    Args:
        file: the source.
        named: `$NUMBA_CACHE_DIR` as Numba has read it.
    """
    if named and can_be_written(Path(named)):
        return named
    if file.exists() and can_be_written(file.parent / "__pycache__"):
        found: str | None = ""
    else:
        found = _elsewhere()
    if named:
        kept = "nowhere" if found is None else found or "beside the code"
        _say(f"are kept {kept}: NUMBA_CACHE_DIR={named} cannot be written")
    return found


@cache
def _elsewhere() -> str | None:
    """In the user's cache folder, else a temporary one, else nowhere."""
    if (folder := user_cache()) is not None:
        return str(folder / "numba")
    if (folder := temporary()) is not None:
        _say(f"are kept in {folder}: neither the program's folder nor a home can be written; NUMBA_CACHE_DIR names one")
        return str(folder / "numba")
    _say("are compiled again in every process: no folder can be written; name one in NUMBA_CACHE_DIR")
    return None


def _forgiving(function: Callable[..., Any]) -> Any:
    """Numba's cache of a function; a full disk or a quota costs the keeping, not the work."""
    from numba.core.caching import FunctionCache

    kept: Any = FunctionCache(function)  # type: ignore[no-untyped-call]
    save = kept.save_overload

    def save_if_there_is_room(sig: Any, data: Any) -> None:
        try:
            save(sig, data)
        except OSError as error:
            _say(f"are compiled again in every process: {kept.cache_path}: {error.strerror or error}")

    kept.save_overload = save_if_there_is_room
    return kept


@cache
def _say(what: str) -> None:
    warnings.warn(f"compiled kernels {what}", KernelsNotKept, stacklevel=2)
