"""A small process that has everything imported and forks one child for each operation that is to be killed.

A pytest worker has threads, and forking it is not safe; starting Python anew costs a second a kill.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_PROGRESS = struct.Struct("<qqq")
_LONGEST = 120


class Done(NamedTuple):
    """How a child ended."""

    code: int
    """Exit code, or minus the signal."""
    ops: int
    """Operations begun, the one that it was killed at included."""
    kind: str
    """Of the last of them; empty before the first."""
    encoded: int
    """Records that its encoder computed."""


class Zygote:
    """The pytest side: `with Zygote() as zygote: zygote.run("run", cache, kill=(7, False))`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._process.communicate()

    def run(
        self,
        work: str,
        cache: Path,
        *,
        kill: tuple[int, bool] | None = None,
        kill_near: tuple[int, float] | None = None,
        pause: float = 0.0,
        acks: Path | None = None,
        arguments: tuple[object, ...] = (),
    ) -> Done:
        """Run one operation in a child: killed at an operation (n, midway), at an instant from it on, or not at all.

        With a `pause` in seconds each operation is slow, as on a disk, and the instant is more often within one.
        """
        asked = {"work": work, "cache": str(cache), "kill": kill, "kill_near": kill_near, "arguments": arguments}
        asked |= {"acks": None if acks is None else str(acks), "pause": pause}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))


def _serve() -> None:
    import cache_races
    import fault_operations
    import faultio
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its thread
    tqdm.set_lock(threading.RLock())  # its own is one for all children, and stays locked when one is killed
    works = {name: operation.work for name, operation in fault_operations.OPERATIONS.items()} | cache_races.WORKS
    for operation in fault_operations.OPERATIONS.values():  # whatever they import late is imported now
        with tempfile.TemporaryDirectory() as folder:
            operation.start(Path(folder) / "cache")
            operation.work(Path(folder) / "cache", None)
    assert threading.active_count() == 1, "a process with threads must not be forked"
    page = mmap.mmap(-1, mmap.PAGESIZE)
    for line in sys.stdin:
        asked = json.loads(line)
        _PROGRESS.pack_into(page, 0, 0, 0, 0)
        child = os.fork()
        if child == 0:
            os._exit(_child(asked, works, page))
        status = _killed_near(child, page, *asked["kill_near"]) if asked["kill_near"] else os.waitpid(child, 0)[1]
        status = os.waitstatus_to_exitcode(status)
        ops, kind, encoded = _PROGRESS.unpack_from(page)
        print(json.dumps([status, ops, ("", *faultio.CHANGES)[kind], encoded]), flush=True)


def _killed_near(child: int, page: mmap.mmap, n: int, seconds: float) -> int:
    """Wait for operation n of a child and a little longer, and kill it wherever it is by then; its status."""
    while _PROGRESS.unpack_from(page)[0] < n:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _child(asked: dict, works: dict, page: mmap.mmap) -> int:  # type: ignore[type-arg]
    from fault_operations import counting
    from faultio import CHANGES, FaultyOs, Kill, Op, installed

    signal.alarm(_LONGEST)
    os.dup2(2, 1)  # standard output carries the answers
    shim = FaultyOs(Kill(*asked["kill"]) if asked["kill"] else None)
    acks = os.open(asked["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if asked["acks"] else None
    try:
        with counting() as count, installed(shim):

            def note(n: int, op: Op) -> None:
                _PROGRESS.pack_into(page, 0, n, 1 + CHANGES.index(op.kind), count[0])  # type: ignore[arg-type]
                if asked["pause"]:
                    time.sleep(asked["pause"])

            shim.on_op = note
            works[asked["work"]](Path(asked["cache"]), acks, *asked["arguments"])
            ops, kind, _ = _PROGRESS.unpack_from(page)
            _PROGRESS.pack_into(page, 0, ops, kind, count[0])
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve()
