"""Rows of an ablation as children of the zygote: processes still, which have their modules imported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from zygote import Zygote


class ForkedRow:
    """As much of `subprocess.Popen` as `row_processes` needs."""

    def __init__(self, zygote: Zygote, asked: str, log: IO[bytes]) -> None:
        read, write = os.pipe()
        with os.fdopen(read, "rb") as nothing:
            self._child = zygote.start("row", [asked], (nothing, log, log))
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

    def start(module: str, text: str, *, env: Mapping[str, str], log: IO[bytes]) -> ForkedRow:
        assert module == "crossllm.pipeline.experiments.row_program"
        asked: dict[str, Any] = json.loads(text)
        return ForkedRow(programs, json.dumps(asked | {"sets": [*sets, *asked["sets"]]}), log)

    return start
