"""In a worker of a Dask cluster: one row or fold, in a process of its own as everywhere else."""

from __future__ import annotations

from contextlib import closing

from crossllm.cache.cluster.task_plugin import TaskPlugin
from crossllm.pipeline.experiments.row_processes import Ended, Task, run_tasks


class TrainPlugin(TaskPlugin):
    """Trains; when the run or the worker ends, the process at hand saves where it stands."""

    def work(self, task: Task) -> Ended | None:
        """A task's process, waited for."""
        with closing(run_tasks([task], 1, self.stopping.is_set)) as ended:
            return next(ended, None)
