"""`--dask`: rows of an ablation, or folds of a run, as tasks of a cluster's workers; each trains in a process there.

What a worker that ends has trained is in the task's folder; another worker goes on from there.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Generator, Sequence

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.cluster.opening import LocalWorkers, opened
from crossllm.cache.cluster.sending import Sender
from crossllm.cache.cluster.sizing import local_workers
from crossllm.cache.console.messages import note
from crossllm.pipeline.experiments.row_processes import Ended, Task

MOST_DEATHS = 3
"""Workers that may end while they have a task."""


def run_on_cluster(tasks: Sequence[Task], name: ClusterName, device: str) -> Generator[Ended]:
    """Train every task, one at a time in each worker; each as it ends.  Paths in them are absolute.

    When this is left early, the workers' processes save where they stand and have ended.

    Raises:
        InputError: no cluster, or its workers cannot do it.
    """
    from crossllm.pipeline.experiments.cluster_worker import TrainPlugin

    waiting, deaths = deque(tasks), dict.fromkeys((task.number for task in tasks), 0)
    with opened(name, _local(name, device, len(tasks))) as cluster:
        sender = Sender[tuple[Task, float]](cluster, "train")
        with sender.registered(TrainPlugin()):
            while waiting or len(sender):
                # No more than there are workers: one that ends takes a task with it, and none that waits there.
                while waiting and len(sender) < max(1, sender.workers()):
                    sender.send((waiting[0], time.monotonic()), waiting.popleft())
                if (answer := sender.answer()) is None:
                    continue
                task, began = answer.task
                if answer.fate == "done":
                    yield answer.result
                    continue
                deaths[task.number] += answer.fate != "left"
                if deaths[task.number] < MOST_DEATHS:
                    note(f"note: --dask: a worker ended, {task.log.stem} goes on in another")
                    waiting.append(task)
                else:
                    problem, seconds = f"{MOST_DEATHS} workers ended while they had it", time.monotonic() - began
                    yield Ended(task.number, problem, seconds, -signal.SIGKILL)


def _local(name: ClusterName, device: str, tasks: int) -> LocalWorkers:
    def gpus() -> int:
        import torch

        return torch.cuda.device_count()

    found = local_workers(name, device, gpus)
    return found if name.workers else found.at_most(tasks)
