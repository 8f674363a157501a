"""Rows of an ablation, folds of a run, as children of the zygote: still processes, which have their modules loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from zygote import Zygote

FOLD = "crossllm.pipeline.experiments.fold_program"


class ForkedRow:
    """As much of `subprocess.Popen` as `row_processes` needs."""

    def __init__(self, zygote: Zygote, asked: str, log: IO[bytes], program: str = "row") -> None:
        read, write = os.pipe()
        with os.fdopen(read, "rb") as nothing:
            self._child = zygote.start(program, [asked], (nothing, log, log))
        self.stdin: IO[bytes] = os.fdopen(write, "wb")
        self.stdout = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.returncode = self._child.poll()
        return self.returncode

    def wait(self) -> int:
        self.returncode = self._child.wait(120)
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self._child.pid, 15)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._child.pid, 9)


def forked_child(programs: Zygote, sets: Sequence[str] = ()) -> Callable[..., ForkedRow]:
    """What to put in the place of `row_processes.start_child`; rows without settings of their own have `sets`."""
    folds = forked_fold(programs, [])

    def start(module: str, text: str, *, env: Mapping[str, str], log: IO[bytes]) -> ForkedRow:
        if module == FOLD:
            return folds(module, text, env=env, log=log)
        assert module == "crossllm.pipeline.experiments.row_program"
        asked: dict[str, Any] = json.loads(text)
        return ForkedRow(programs, json.dumps(asked | {"sets": [*sets, *asked["sets"]]}), log)

    return start


def forked_fold(programs: Zygote, started: list[ForkedRow]) -> Callable[..., ForkedRow]:
    """The same for folds; each is put into `started`."""

    def start(module: str, text: str, *, env: Mapping[str, str], log: IO[bytes]) -> ForkedRow:
        assert module == FOLD
        started.append(ForkedRow(programs, text, log, "fold"))
        return started[-1]

    return start
