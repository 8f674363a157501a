"""Variables of the environment at which a library falls over or talks: told in one line before it is loaded.

libgomp, Numba, torch, matplotlib and protobuf read theirs when they are imported.  They raise, end the process, or
write ten lines and go on without the variable, which is no better: what was asked for is not done.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import one_line, printable
from crossllm.folders import can_be_written
from crossllm.kernels import thread_problem


class Form(NamedTuple):
    """What a variable may be."""

    pattern: str
    expected: str


_TRUTH = Form("true|false", "true or false")
_COUNT = Form("[1-9][0-9]*", "a number, 1 or more")
_WHOLE = Form("[+-]?[0-9]+", "a whole number")
_SIZE = Form("[0-9]+ *[bkmg]?", "a size, e.g. 4M")
_OPENMP = {
    "OMP_NUM_THREADS": Form("[1-9][0-9]*( *, *[1-9][0-9]*)*", "a number of threads, 1 or more"),
    "OMP_THREAD_LIMIT": _COUNT, "OMP_DYNAMIC": _TRUTH, "OMP_NESTED": _TRUTH, "OMP_CANCELLATION": _TRUTH,
    "OMP_MAX_ACTIVE_LEVELS": Form("[0-9]+", "a number"), "OMP_STACKSIZE": _SIZE, "GOMP_STACKSIZE": _SIZE,
    "OMP_SCHEDULE": Form(
        "((non)?monotonic *: *)?(static|dynamic|guided|auto)( *, *[1-9][0-9]*)?", "static, dynamic, guided or auto"
    ),
    "OMP_PROC_BIND": Form("true|false|(master|primary|close|spread)( *, *(master|primary|close|spread))*",
                          "true, false, close or spread"),
    "OMP_PLACES": Form(r"(threads|cores|sockets|ll_caches|numa_domains)( *\([0-9]+\))?|[{!].*",
                       "threads, cores, sockets or a list of places"),
    "OMP_WAIT_POLICY": Form("active|passive", "active or passive"),
    "GOMP_SPINCOUNT": Form("[0-9]+ *[kmgt]?|infinit[ey]", "a number or INFINITE"),
}  # fmt: skip
"""As libgomp reads them, whatever their case."""
_OTHERS = {
    "NUMBA_OPT": Form("[0-3]|max", "0, 1, 2, 3 or max"),
    "NUMBA_CPU_FEATURES": Form(r"([+-][\w.-]+( *, *[+-][\w.-]+)*)?", "a list of +feature and -feature"),
    "SOURCE_DATE_EPOCH": _WHOLE,
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": Form("python|cpp|upb", "python or upb"),
}
_NUMBA_WORDS = re.compile(
    "NUMBA_(COLOR_SCHEME|DEBUG_PRINT_(AFTER|BEFORE|WRAP)|CACHE_(DIR|LOCATOR_CLASSES)|CHROME_TRACE|CPU_NAME|DUMP_HTML|"
    "THREADING_LAYER(_PRIORITY)?|FORCE_CUDA_CC|CUDA_(DEFAULT_PTX_CC|LOG_LEVEL|MAX_PENDING_DEALLOCS_RATIO|DRIVER|"
    "INCLUDE_PATH|MEMORY_MANAGER)|GDB_BINARY|LLVM_REFPRUNE_FLAGS|NUM_THREADS)"
)
"""Numba's variables that are no numbers, or that have a check of their own; all others are numbers (numba 0.68)."""
_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR",)


def drop_empty(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Take out what is empty, as an unset variable of a script leaves it: it asks for nothing, and would be a fault."""
    for name in [name for name in environment if name.startswith(("OMP_", "GOMP_", "NUMBA_")) or name in _OTHERS]:
        if not environment[name].strip():
            del environment[name]


def environment_problem(environment: Mapping[str, str] = os.environ) -> str | None:
    """What is wrong with the first variable at which a library would fall over; None where all is well."""
    return next(_problems(environment), None)


def _problems(environment: Mapping[str, str]) -> Iterator[str]:
    if (threads := thread_problem()) is not None:
        yield threads
    for name, text in environment.items():
        form = _OPENMP.get(name) or _OTHERS.get(name)
        if form is None and name.startswith("NUMBA_") and not _NUMBA_WORDS.fullmatch(name):
            form = _WHOLE
        if form is not None and re.fullmatch(form.pattern, text.strip(), re.IGNORECASE) is None:
            yield _said(name, text, form.expected)
    if (name := environment.get("NUMBA_CPU_NAME", "")) not in ("", "generic", "host") and not _is_processor(name):
        yield _said("NUMBA_CPU_NAME", name, "a processor that LLVM knows, e.g. generic")
    for name in _FOLDERS:
        if (place := environment.get(name)) and not can_be_written(Path(place)):
            yield _said(name, place, "a folder that can be written")


def _is_processor(name: str) -> bool:
    """Whether LLVM knows a processor; of any other it writes a line for each kernel and goes on without.

    In a process of its own, since it writes to the descriptor; only where the variable is set.
    """
    ask = (
        "import sys, llvmlite.binding as llvm; llvm.initialize_native_target(); llvm.initialize_native_asmprinter(); "
        "llvm.Target.from_default_triple().create_target_machine(cpu=sys.argv[1])"
    )
    try:
        found = subprocess.run([sys.executable, "-c", ask, name], capture_output=True, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return True
    return b"is not a recognized processor" not in found.stderr


def _said(name: str, text: str, expected: str) -> str:
    return f"{name}='{printable(text)}': {expected} is expected; correct the variable or unset it"


_PREFIXES = {
    "torch": ("TORCH", "PYTORCH", "ATEN_", "CUDA_", "TRITON_"),
    "numba": ("NUMBA_",),
    "numpy": ("NPY_", "NUMPY_"),
    "matplotlib": ("MPL", "MATPLOTLIBRC"),
    "google": ("PROTOCOL_BUFFERS_",),
    "tensorboard": ("PROTOCOL_BUFFERS_", "TF_"),
    "h5py": ("HDF5_",),
    "rdkit": ("RDBASE",),
}
"""Library → how the variables begin that it reads when it is imported."""


def import_problem(error: BaseException) -> str | None:
    """What to say of a library that could not be imported where variables of its own are set; None for all else."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        library = next((name for name in _PREFIXES if name in Path(code.co_filename).parts), None)
        if library is not None and code.co_name == "<module>":
            suspects = [name for name in os.environ if name.startswith((*_PREFIXES[library], "PYTHONWARNINGS"))]
            if not suspects:
                return None
            set_ = ", ".join(f"{name}='{printable(os.environ[name], 40)}'" for name in suspects)
            return f"{library} cannot be imported with {set_}: {one_line(error)}; correct the variable or unset it"
        trace = trace.tb_next
    return None
