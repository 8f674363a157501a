"""What a cluster of this machine is made of: a process for each GPU, or for each group of cores."""

from __future__ import annotations

import os
from collections.abc import Callable

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.cluster.opening import LocalWorkers
from crossllm.cache.console.machine import cores
from crossllm.cache.errors import InputError

GROUP = 4
"""Cores of a worker that computes by torch, unless the number of workers is given."""


def check_device(name: ClusterName, device: str) -> None:
    """Raise `InputError` for one GPU of several: each worker has one to itself."""
    if device.startswith("cuda:"):
        raise InputError(f"--device {device}: with --dask {name.text} each worker has a GPU of its own; write cuda")


def local_workers(name: ClusterName, device: str, gpus: Callable[[], int], group: int = GROUP) -> LocalWorkers:
    """Workers of this machine for a cluster of this name; none where its scheduler is elsewhere.

    Args:
        name: of the cluster.
        device: cpu, or cuda.
        gpus: counts those of this machine.
        group: cores of a worker where no number is given.

    Raises:
        InputError: more workers than GPUs, or one GPU of several.
    """
    if name.contact is not None:
        return LocalWorkers(0, 0)
    check_device(name, device)
    if device == "cuda":
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = list(map(str, range(gpus()))) if named is None else [gpu for gpu in named.split(",") if gpu]
        if (name.workers or 1) > len(visible):
            raise InputError(f"--dask {name.text}: each worker has a GPU of its own, and here are {len(visible)}")
        count = name.workers or len(visible)
        return LocalWorkers(count, max(1, cores() // count), tuple(visible[:count]))
    count = name.workers or max(1, cores() // group)
    return LocalWorkers(count, max(1, cores() // count))
