"""Probes in a child process: a library that ends its process, or hangs, is a finding and not the end of the doctor."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from subprocess import Popen
from typing import NamedTuple

from crossllm.cache.console.child_process import end_child, start_child
from crossllm.checks import Check

CHILD = "crossllm.pipeline.doctor.child"
PATIENCE = 180.0
"""Seconds for one probe: the first that uses a kernel may have it compiled, on a slow machine for a minute."""


class Probe(NamedTuple):
    """One function that looks at something."""

    section: str
    name: str
    call: str
    """`module:function`, or `module:function:argument`; the function gives a list of `Check`."""
    mend: str = ""
    """What to do where the function raises, or ends its process."""
    needed: bool = True


def run_probes(probes: Sequence[Probe], patience: float = PATIENCE) -> Iterator[Check]:
    """What they find, in their order; after one that ended the child, the next are run in another.

    Args:
        probes: each of another `call`.
        patience: seconds that one may take.
    """
    waiting = list(probes)
    while waiting:
        child = start_child(CHILD, *(probe.call for probe in waiting))
        try:
            lines = _Lines(child, patience)
            for probe in list(waiting):
                line = lines.next()
                waiting.remove(probe)
                if isinstance(line, str):
                    yield Check(probe.section, probe.name, "broken", line, probe.mend, probe.needed)
                    break
                yield from _checks(probe, line)
        finally:
            end_child(child)


def _checks(probe: Probe, line: bytes) -> list[Check]:
    told = json.loads(line)
    if told["error"]:
        return [Check(probe.section, probe.name, "broken", told["error"], probe.mend, probe.needed)]
    return [Check(**found) for found in told["checks"]]


class _Lines:
    """The child's answers, one a probe."""

    def __init__(self, child: Popen[bytes], patience: float) -> None:
        assert child.stdout is not None
        self.child, self.pipe, self.patience = child, child.stdout.fileno(), patience
        self.kept = b""

    def next(self) -> bytes | str:
        """The next answer, or what became of the child instead."""
        until = time.monotonic() + self.patience
        while b"\n" not in self.kept:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                return f"did not end within {self.patience:.0f} s"
            piece = os.read(self.pipe, 1 << 16)
            if not piece:
                return _ended(self.child.wait())
            self.kept += piece
        line, _, self.kept = self.kept.partition(b"\n")
        return line


def _ended(code: int) -> str:
    if code < 0:
        return f"ended its process by signal {-code} ({signal.Signals(-code).name})"
    return f"ended its process with exit code {code}"
