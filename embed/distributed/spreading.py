"""The middle of `embed run --dask`, in place of `crossllm.embed.run.storing.store`: on the workers of a cluster."""

from __future__ import annotations

from collections import Counter

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.cluster.opening import LocalWorkers, opened
from crossllm.cache.cluster.sizing import GROUP, local_workers
from crossllm.cache.console.progress import residue_progress
from crossllm.cache.console.runner import stop_between_records
from crossllm.cache.store.recipe import write_recipe
from crossllm.embed.distributed.driver import Driver
from crossllm.embed.encoder import EncoderInfo
from crossllm.embed.run.ack import Acknowledger
from crossllm.embed.run.plan import Plan, RunOptions
from crossllm.embed.run.storing import Outcome


def store_on_cluster(
    options: RunOptions, info: EncoderInfo, plan: Plan, outcome: Outcome, acknowledger: Acknowledger | None
) -> Counter[str]:
    """Encode and store what is pending, noting in `outcome` what was stored and what was refused.

    Returns:
        What the encoder's input lost on the way in → how many records.

    Raises:
        InputError: no cluster, or its workers cannot do it.
    """
    name = options.dask
    assert name is not None
    for target in plan.wanted:
        write_recipe(options.cache_dir, target.recipe)  # which workers look for
    with (
        opened(name, _local(name, options, info)) as cluster,
        stop_between_records() as stopping,
        residue_progress(int(plan.rows.sum()), info.name, options.quiet) as seen,
    ):
        if acknowledger is not None:
            acknowledger.stopping = stopping
        driver = Driver(cluster, options, info, plan, outcome, seen, acknowledger)
        driver.run(stopping)
    return driver.notes


def _local(name: ClusterName, options: RunOptions, info: EncoderInfo) -> LocalWorkers:
    """A worker for each GPU, or for a group of cores, among which an encoder's threads are divided."""

    def gpus() -> int:
        import torch

        return torch.cuda.device_count()

    return local_workers(name, options.device, gpus, GROUP if info.source else 1)
