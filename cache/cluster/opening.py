"""A Dask cluster for as long as a command needs it: connected to, or started on this machine and ended with it.

A cluster of this machine listens on the loopback interface alone: a Dask scheduler runs whatever code it is sent.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, NamedTuple

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError, one_line

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0
"""Seconds for a connection to be made, and for each step of leaving a cluster."""
START = 120.0
"""Seconds in which a worker of this machine must have come up, also anew."""


class LocalWorkers(NamedTuple):
    """What a cluster of this machine is made of: a process each, and one piece of work at a time in it."""

    processes: int
    threads: int
    """Of each."""
    gpus: tuple[str, ...] = ()
    """Of CUDA_VISIBLE_DEVICES, one for each worker; none: they have no GPU."""

    def at_most(self, processes: int) -> LocalWorkers:
        """No more of them than there is work for."""
        return self if self.processes <= processes else LocalWorkers(processes, self.threads, self.gpus[:processes])


class Cluster(NamedTuple):
    """An open cluster."""

    name: ClusterName
    client: Client

    def workers(self) -> int:
        """How many there are now."""
        return len(self.client.nthreads())


def require_dask() -> None:
    """Raise `InputError` where Dask is not installed."""
    if find_spec("distributed") is None:
        raise InputError("--dask: Dask is not installed; `pip install 'crossllm-mamba[dask]'` installs it")


@contextmanager
def opened(name: ClusterName, local: LocalWorkers) -> Iterator[Cluster]:
    """The cluster of this name, left and, if it is of this machine, ended with the block: processes, ports, folders.

    Args:
        name: as the user gave it.
        local: what it is made of if it is of this machine.

    Raises:
        InputError: Dask is not installed, or no scheduler answers.
    """
    require_dask()
    with ExitStack() as stack:
        if name.contact is None:
            own = stack.enter_context(_started(local))
            client = _connected(name, own)
        else:
            client = _connected(name, name.contact)
        stack.callback(within, PATIENCE, client.close, PATIENCE)
        _say_where(name, client)
        yield Cluster(name, client)


def within(seconds: float, call: Callable[..., object], *arguments: object) -> bool:
    """Whether a call has come to its end in so many seconds; one that has not is left alone, and its error swallowed.

    What leaves a cluster asks processes that may be gone, or deaf.
    """

    def attempt() -> None:
        with suppress(Exception):
            call(*arguments)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@contextmanager
def _started(local: LocalWorkers) -> Iterator[SpecCluster]:
    threads = {name: str(local.threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    quiet = {"DASK_LOGGING__DISTRIBUTED": os.environ.get("DASK_LOGGING__DISTRIBUTED", "critical")}
    with ExitStack() as stack:
        stack.enter_context(_environment(threads | quiet | {"PYTHONWARNINGS": _warnings()}))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="crossllm-dask-", ignore_cleanup_errors=True))
        import dask.config
        from distributed import SpecCluster

        # A nanny whose worker has died is closed if the next one is not there after this time, or just then has died.
        settings = {
            "distributed.nanny.pre-spawn-environ": {},
            "distributed.deploy.lost-worker-timeout": "52 weeks",
            "temporary-directory": scratch,
        }
        stack.enter_context(dask.config.set(settings))
        workers = {n: _worker(local, n) for n in range(local.processes)}
        resource_tracker.ensure_running()  # which would let the thread hear Ctrl-C again
        try:
            with _ctrl_c_is_ours():
                cluster = SpecCluster(scheduler=_scheduler(), workers=workers, silence_logs=logging.CRITICAL)
        except (RuntimeError, TimeoutError) as error:
            why = one_line(error.__cause__ or error)
            raise InputError(f"--dask: a worker of this machine does not start ({why}); name fewer") from None
        stack.callback(within, 2 * PATIENCE, cluster.close, PATIENCE)
        yield cluster


def _warnings() -> str:
    """The user's choice of warnings, without one that a killed worker causes.

    Python's tracker of semaphores takes away what such a worker held, and says so when the command has ended.
    """
    return ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"]))


def _scheduler() -> dict[str, object]:
    from distributed import Scheduler

    has_page = find_spec("bokeh") is not None
    options = {
        "host": LOOPBACK,
        "port": 0,
        "protocol": "tcp://",
        "dashboard": has_page,
        "dashboard_address": f"{LOOPBACK}:0",
        # A task whose worker has died comes back at once: who sent it knows whether to try it again.
        "allowed_failures": 0,
    }
    return {"cls": Scheduler, "options": options}


def _worker(local: LocalWorkers, number: int) -> dict[str, object]:
    from distributed import Nanny

    options = {
        "host": LOOPBACK,
        "protocol": "tcp://",
        "nthreads": 1,
        # No bound: a worker near it would be paused for good, with an encoder that is as large as that.
        "memory_limit": 0,
        "dashboard": False,
        "death_timeout": START,
        "silence_logs": logging.CRITICAL,
        "env": {"CUDA_VISIBLE_DEVICES": local.gpus[number]} if local.gpus else {},
    }
    return {"cls": Nanny, "options": options}


def _connected(name: ClusterName, to: str | SpecCluster) -> Client:
    from distributed import Client

    try:
        if isinstance(to, str) and to.startswith("tcp://"):
            _refuse_silent(to)
        return Client(to, timeout=PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--dask {name.text}: no scheduler answers ({one_line(error)}); start one by `dask scheduler`, or correct "
            "the address"
        ) from None


def _refuse_silent(address: str) -> None:
    """Raise `TimeoutError` where something listens that says nothing, as a web server does: `Client` would wait on.

    A scheduler speaks first. Where nobody listens `Client` tells it, and waits for one that is about to start.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        probe = socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
    except (OSError, OverflowError):
        return
    with probe:
        try:
            probe.recv(1)
        except TimeoutError:
            raise TimeoutError("what listens there says nothing, a scheduler does") from None


def _say_where(name: ClusterName, client: Client) -> None:
    """Its dashboard, which a scheduler has where bokeh is installed beside it."""
    if name.contact is not None or find_spec("bokeh") is not None:
        with suppress(Exception):  # a scheduler without one
            note(f"note: --dask {name.text}: dashboard at {client.dashboard_link}")


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """These variables set, for processes that start inside."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _ctrl_c_is_ours() -> Iterator[None]:
    """Threads that start inside, and all processes that they will ever start, do not hear the terminal's Ctrl-C.

    A terminal sends it to every process of the command; the workers are to end as this one tells them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
