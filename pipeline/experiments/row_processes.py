"""Rows of an ablation, or folds of a run, as child processes, some at a time."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from crossllm.cache.console.child_process import end_child, start_child
from crossllm.cache.console.machine import cores

_POLL = 0.1
"""Seconds between two looks at the children."""
_GRACE = 30.0
"""Seconds that a child has after SIGTERM to save where it stands."""
_TAIL = 64 << 10
"""Bytes at the end of a log that are searched for errors."""


class Task(NamedTuple):
    """One row or fold to be trained."""

    number: int
    asked: dict[str, Any]
    """As its program takes it."""
    log: Path
    """Where its output goes."""
    program: str = "row_program"
    """Of this folder."""


class Ended(NamedTuple):
    """How a task ended."""

    number: int
    problem: str | None
    """Its error line, or its exit code; None where it finished."""
    seconds: float
    code: int
    """Exit code, or minus the signal."""


def run_tasks(tasks: Sequence[Task], jobs: int, stopped: Callable[[], bool] = lambda: False) -> Generator[Ended]:
    """Train every row or fold, `jobs` at a time; each as it ends.

    When this is left early, by Ctrl-C or SIGTERM or because `stopped` says so, the children get SIGTERM, save where
    they stand and have ended.
    """
    waiting = list(reversed(tasks))
    running: dict[int, tuple[Task, subprocess.Popen[bytes], float]] = {}
    try:
        while (waiting or running) and not stopped():
            while waiting and len(running) < jobs:
                task = waiting.pop()
                with open(task.log, "wb") as log:
                    child = start_child(
                        f"crossllm.pipeline.experiments.{task.program}",
                        json.dumps(task.asked),
                        env=_environment(jobs),
                        log=log,
                    )
                running[task.number] = task, child, time.monotonic()
            for number, (task, child, began) in list(running.items()):
                if child.poll() is not None:
                    del running[number]
                    end_child(child)
                    problem = None if child.returncode == 0 else _problem(task.log, child.returncode)
                    yield Ended(number, problem, time.monotonic() - began, child.returncode)
            time.sleep(_POLL)
    finally:
        _stop([child for _, child, _ in running.values()])


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes."""
    return max(1, cores() // jobs)


def _environment(jobs: int) -> dict[str, str]:
    """Of a child: its share of the cores, one at least."""
    if jobs == 1:
        return {}
    share = str(threads_each(jobs))
    return {"OMP_NUM_THREADS": share, "NUMBA_NUM_THREADS": share}


def _stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM for all, and SIGKILL for what has not ended in time; a second signal does not leave one running."""
    with ExitStack() as stack:
        for child in children:
            stack.callback(end_child, child)
            child.terminate()
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and any(child.poll() is None for child in children):
            time.sleep(_POLL)


def _problem(log: Path, code: int) -> str:
    """What a child said last of what went wrong."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return said or f"{ended}; its output is in {log}"
