"""A process that has everything imported and forks one child for each program or operation that a test asks for.

Starting Python anew costs a test one to three seconds, nearly all of them imports; a pytest worker has threads, and
forking it is not safe.  A child is a process as any other: a working folder, an environment, standard files, a process
id and an exit status of its own, and nothing of it is left for the next.

What it cannot show is what happens while Python starts and modules load, nor what the environment says to a module
when it is imported: for that there is the fixture `fresh_program`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

ENTRY = {
    name: f"from crossllm.pipeline.main import {function}; {function}()"
    for name, function in (("embed", "embed"), ("train", "train"), ("crossllm", "main"))
} | {
    name: f"from crossllm.pipeline.experiments.{name}_program import {name}, run_program; run_program({name})"
    for name in ("row", "fold")
}
"""Program → what `python -c` runs for it."""
TIMEOUT = 300
"""Seconds that a program may take."""
_LATE = (
    "torch._dynamo", "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "matplotlib.figure",
    "scipy.optimize", "scipy.sparse.csgraph", "scipy.stats",
    "sklearn.ensemble", "sklearn.isotonic", "sklearn.linear_model", "sklearn.metrics", "sklearn.model_selection",
)  # fmt: skip
"""What programs import on their way."""
_TESTS = str(Path(__file__).resolve().parent)
_PROGRESS = struct.Struct("<qqqq")
_LONGEST = 120
"""Seconds that an operation may take."""


class Done(NamedTuple):
    """How a child ended."""

    code: int
    """Exit code, or minus the signal."""
    ops: int
    """Operations begun, the one that it was killed at included."""
    kind: str
    """Of the last of them; empty before the first."""
    before: str
    """Of the one before that."""
    encoded: int
    """Records that its encoder computed."""


class Child:
    """A program that runs, as `subprocess.Popen` has it."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote, self.pid = zygote, pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        if self._code is None:
            self._code = self._zygote._ask({"wait": self.pid, "block": False})[0]
        return self._code

    def wait(self, seconds: float) -> int:
        """The same, once it has ended."""
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < until
            time.sleep(0.002)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """It is no one else's process id: a child stays until it is waited for."""
        os.kill(self.pid, number)


class Zygote:
    """The pytest side: `with Zygote("programs") as zygote: zygote.program("embed", "run", …, cwd=folder)`.

    One of "programs" runs the programs; one of "operations" is small, for the thousands of operations to be killed; one
    of "training" kills training runs.
    """

    def __init__(self, of: str) -> None:
        self._of = of

    def __enter__(self) -> Self:
        self._files, theirs = socket.socketpair()
        code = f"import sys; sys.path.append({_TESTS!r}); import zygote; zygote.serve()()"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, self._of, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._process.communicate()
        self._files.close()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        files: Sequence[IO[bytes]],
        *,
        cwd: Path | None = None,
        seconds: int = TIMEOUT,
    ) -> Child:
        """Start `embed …`, `train …` or `crossllm …` in a child, warnings as errors.

        `files` are its standard input, output and error; its environment is that of this process.
        """
        asked = {"program": name, "arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ)}
        return Child(self, self._ask({**asked, "seconds": seconds}, [file.fileno() for file in files])[0])

    def program(self, name: str, arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run it to its end; what it wrote."""
        # Files, not pipes: whatever is written fits, and a grandchild that lives on holds up nothing.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
            code = self._ask({"wait": self.start(name, arguments, (nothing, out, err), cwd=cwd).pid, "block": True})[0]
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        if code == -signal.SIGALRM:
            raise subprocess.TimeoutExpired([name, *arguments], TIMEOUT, *texts)
        return subprocess.CompletedProcess([name, *arguments], code, *texts)

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
        return Done(*self._ask(asked))

    def _ask(self, asked: Mapping[str, Any], files: Sequence[int] = ()) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        if files:
            socket.send_fds(self._files, [b"."], list(files))
        line = self._process.stdout.readline()
        assert line, f"the zygote of {self._of} ended with {self._process.wait()}; what it said is on standard error"
        answer: list[Any] = json.loads(line)
        return answer


def serve() -> Callable[[], object]:
    """The zygote: answer until standard input ends.  In a child that is to run a program, return how."""
    of, files = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    sys.argv[1:] = []
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # pandas loads it where it is, and it starts a thread
    import pandas  # noqa: F401

    del sys.modules["pyarrow"]
    with files:
        if of == "operations":
            _serve_operations()
            return sys.exit
        _import_programs()
        if of == "training":
            import training_kills

            _answer(training_kills.WORKS)
            return sys.exit
        sys.path.remove(_TESTS)  # what a program finds is what it finds without the tests
        return _serve_programs(files)


def _import_programs() -> None:
    """All of ours, and what they import late."""
    import numba

    import crossllm.cache

    root = Path(crossllm.cache.__file__).parent.parent
    folders = [root / name for name in ("cache", "embed", "model", "pipeline")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        # The programs come last, and the kernels that need a GPU or an interpreter not at all.
        if not any(part in name for part in ("__", "pipeline.crossllm", "triton", "mamba_ssm")):
            importlib.import_module(f"crossllm.{name}")
    for name in _LATE:
        importlib.import_module(name)
    numba.njit("void()")(lambda: None)  # Numba imports most of itself when it compiles or loads the first function


def _assert_single() -> None:
    tasks = Path("/proc/self/task")
    count = len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()
    assert count == 1, "a process with threads must not be forked"


def _serve_programs(files: socket.socket) -> Callable[[], object]:
    gc.collect()
    gc.freeze()  # a child's collector leaves alone what it shares
    for line in sys.stdin:
        _assert_single()
        asked = json.loads(line)
        if "wait" in asked:
            ended, status = os.waitpid(asked["wait"], 0 if asked["block"] else os.WNOHANG)
            print(json.dumps([os.waitstatus_to_exitcode(status) if ended else None]), flush=True)
            continue
        _, given, _, _ = socket.recv_fds(files, 1, 3)
        child = os.fork()
        if child == 0:
            return _become(asked, given)
        for file in given:
            os.close(file)
        print(json.dumps([child]), flush=True)
    return sys.exit


def _become(asked: Mapping[str, Any], files: Sequence[int]) -> Callable[[], None]:
    """In the child: be what `python -W error -c ENTRY` is after its imports; what is left to run."""
    signal.alarm(asked["seconds"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115  (for as long as the process lives)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[1:] = asked["arguments"]
    return lambda: _run_program(ENTRY[asked["program"]])


def _run_program(code: str) -> None:
    """Run it and end the process: as Python does, but for taking down the modules, which takes longer than most."""
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as done:
        if not isinstance(done.code, int):
            raise
        status = done.code
    else:
        return
    gc.collect()  # what was left open says so
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _serve_operations() -> None:
    import cache_races
    import fault_operations
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its thread
    tqdm.set_lock(threading.RLock())  # its own is one for all children, and stays locked when one is killed
    works = {name: operation.work for name, operation in fault_operations.OPERATIONS.items()} | cache_races.WORKS
    for operation in fault_operations.OPERATIONS.values():  # whatever they import late is imported now
        with tempfile.TemporaryDirectory() as folder:
            operation.start(Path(folder) / "cache")
            operation.work(Path(folder) / "cache", None)
    _answer(works)


def _answer(works: Mapping[str, Any]) -> None:
    """Fork a child for each operation that is asked for."""
    import faultio

    _assert_single()
    gc.collect()
    gc.freeze()
    kinds = ("", *faultio.CHANGES)
    page = mmap.mmap(-1, mmap.PAGESIZE)
    for line in sys.stdin:
        asked = json.loads(line)
        _PROGRESS.pack_into(page, 0, 0, 0, 0, 0)
        child = os.fork()
        if child == 0:
            os._exit(_child(asked, works, page))
        status = _killed_near(child, page, *asked["kill_near"]) if asked["kill_near"] else os.waitpid(child, 0)[1]
        status = os.waitstatus_to_exitcode(status)
        ops, kind, before, encoded = _PROGRESS.unpack_from(page)
        print(json.dumps([status, ops, kinds[kind], kinds[before], encoded]), flush=True)


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
                before = _PROGRESS.unpack_from(page)[1]
                _PROGRESS.pack_into(page, 0, n, 1 + CHANGES.index(op.kind), before, count[0])  # type: ignore[arg-type]
                if asked["pause"]:
                    time.sleep(asked["pause"])

            shim.on_op = note
            works[asked["work"]](Path(asked["cache"]), acks, *asked["arguments"])
            _PROGRESS.pack_into(page, 0, *_PROGRESS.unpack_from(page)[:3], count[0])
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
