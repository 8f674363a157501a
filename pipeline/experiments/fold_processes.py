"""`train --jobs N`: folds of a run as child processes, N at a time; each keeps what it fits in the run's folder.

`train --dask`: the same on the workers of a cluster.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import closing
from typing import Any

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import duration
from crossllm.cache.errors import CacheCorrupt, Conflict, CrossLLMError, InputError
from crossllm.cache.files import fsio
from crossllm.cache.remote.opening import name_of
from crossllm.pipeline.experiments.cluster_tasks import run_on_cluster
from crossllm.pipeline.experiments.row_processes import Ended, Task, run_tasks, threads_each
from crossllm.pipeline.train import FoldsToFit
from crossllm.pipeline.training.config import held_config, held_recipes
from crossllm.pipeline.training.run_folder import fold_folder
from crossllm.pipeline.training.usage import read_usage, write_usage

_ERRORS: dict[int, type[CrossLLMError]] = {kind.exit_code: kind for kind in (InputError, CacheCorrupt, Conflict)}


def fit_in_processes(work: FoldsToFit, jobs: int, dask: ClusterName | None = None) -> None:
    """Fit the missing folds, `jobs` at a time, or one in each worker of a cluster.

    The first that fails ends it: the others save where they stand.

    Raises:
        CrossLLMError: as the fold's process ended.
        OSError: a fold's process was killed, or ran out of memory or disk.
    """
    count, began = len(work.digests), time.monotonic()
    if not work.missing:
        return
    tasks = [_task(work, number) for number in work.missing]
    if dask is None:
        where, running = f"{jobs} at a time, {threads_each(jobs)} threads each", run_tasks(tasks, jobs)
    else:
        where, running = f"--dask {dask.text}", run_on_cluster(tasks, dask, work.options.device)
    note(f"note: {len(work.missing)} of {count} folds, {where}")
    with closing(running) as ended:
        for done, found in enumerate(ended, 1):
            if found.problem is not None:
                raise _error(work, found)
            took = read_usage(fold_folder(work.folder, found.number))
            write_usage(work.folder, read_usage(work.folder).plus(took))
            left = (time.monotonic() - began) / done * (len(work.missing) - done)
            time_left = f", about {duration(left)} left" if done < len(work.missing) else ""
            note(f"fold {found.number + 1} of {count}: {duration(found.seconds)}{time_left}")


def _task(work: FoldsToFit, number: int) -> Task:
    """One fold, as `fold_program` takes it."""
    options, config = work.options, held_config(work.folder)
    assert config is not None
    recipes = held_recipes(config)
    asked: dict[str, Any] = {
        "cache": name_of(options.cache_dir),
        "config": os.fspath(config.absolute()),
        "number": number,
        "digest": work.digests[number],
        "baselines": work.baselines,
        "options": {
            "recipe_a": recipes["a"],
            "recipe_b": recipes["b"],
            "out": os.fspath(work.folder.absolute()),
            "device": options.device,
            "on_bad": options.on_bad,
            "io": options.io,
        },
    }
    where = fold_folder(work.folder, number)
    fsio.make_dirs(where)
    return Task(number, asked, (where / "said.txt").absolute(), "fold_program")


def _error(work: FoldsToFit, found: Ended) -> CrossLLMError | OSError:
    """What a single process would have ended with."""
    if (kind := _ERRORS.get(found.code)) is not None:
        return kind(f"fold {found.number + 1}: {found.problem}")
    return OSError(errno.EIO, found.problem, f"fold {found.number + 1} of {len(work.digests)}")
