"""Clusters that a test starts, and their worker processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

PRELOAD = Path(__file__).with_name("dask_preload.py")


def workers_of(parent: int) -> list[psutil.Process]:
    """The worker processes of a cluster that a process has started."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):  # one that has just ended has no command line
            if "--multiprocessing-fork" in child.cmdline():
                found.append(child)
    return found


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A cluster as its owner has started it; its scheduler's address is all that a run is told."""
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.worker.preload": [str(PRELOAD)],
        "distributed.nanny.pre-spawn-environ": {},  # it would stay here (findings/distributed_nanny_environ.sh)
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50) as found,
    ):
        yield found


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """`work` in a thread, told when the block is over; what it raises is raised."""
    over, raised = threading.Event(), list[BaseException]()

    def attempt() -> None:
        try:
            work(over)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    for error in raised:
        raise error


def retire_the_busy(
    found: Any, over: threading.Event, retired: list[str], times: int, after: float, kill: bool
) -> None:
    """Retire workers that have been at work for `after` seconds, one after the other; there is one more each time.

    Args:
        found: the cluster.
        over: when to look no more.
        retired: gets their addresses.
        times: how many.
        after: seconds.
        kill: end their processes at once, as a batch system does that has told them.
    """
    from distributed import Client

    with Client(found.scheduler_address, set_as_default=False) as client:
        while len(retired) < times and not over.wait(0.05):
            if busy := [address for address, keys in client.processing().items() if keys]:
                over.wait(after)
                pids = client.run(os.getpid, workers=busy)
                client.retire_workers(busy, close_workers=True)
                for pid in pids.values() if kill else ():
                    os.kill(pid, signal.SIGKILL)
                retired.extend(busy)
                found.scale(1 + len(retired))
