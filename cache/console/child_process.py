"""Child processes of ours: how they are started and what they may take.

A library that can crash, hang or eat all memory on hostile data runs in one; the parent loses a record, not the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any


def start_child(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, log: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Run one of our modules as a program, its standard input and output in pipes.

    Args:
        module: its name, `crossllm.…`: nothing that a user's own folder holds has it.
        arguments: of the program.
        env: added to the environment.
        log: takes what it writes, errors too; None: its output is in the pipe, its errors are nowhere.
    """
    # -P: the folder at hand is no place to import from.
    # A session of its own: Ctrl-C is for the parent, which lets the record at hand be finished.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if log is None else log,
        stderr=subprocess.DEVNULL if log is None else log,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )


def end_child(process: subprocess.Popen[Any]) -> None:
    """Kill it, wait for it, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # a full pipe to a dead child
                pipe.close()


def bound_memory(size: int) -> None:
    """In the child: at most `size` bytes of address space, where the system can hold it to that."""
    with suppress(ImportError, ValueError, OSError):  # not on Windows; macOS may refuse
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
