"""In a worker of a Dask cluster: one row or fold, in a process of its own as everywhere else."""

from __future__ import annotations

from contextlib import closing
from threading import Event
from typing import Any

from distributed import WorkerPlugin, get_worker

from crossllm.pipeline.experiments.row_processes import Ended, Task, run_tasks


class StopPlugin(WorkerPlugin):
    """Ends what is trained in a worker when the run or the worker ends."""

    def setup(self, worker: Any) -> None:
        """Called in each worker, those that come later too."""
        self.stopping = Event()

    def teardown(self, worker: Any) -> None:
        """Called when the run or the worker ends: the process at hand saves where it stands."""
        self.stopping.set()


def train_task(run: str, task: Task) -> Ended | None:
    """A task of a run: its process, waited for; None where it was told to stop."""
    plugin = get_worker().plugins.get(run)
    if not isinstance(plugin, StopPlugin):
        return None
    with closing(run_tasks([task], 1, plugin.stopping.is_set)) as ended:
        return next(ended, None)
