"""In a worker: the encoder, loaded once, and batches that it encodes and stores with the cache's own writer."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from socket import gethostname
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache.cluster.task_plugin import TaskPlugin
from crossllm.cache.errors import InputError
from crossllm.cache.records.record_list import Distinct, RecordList
from crossllm.cache.remote.opening import CacheName, name_of, open_named
from crossllm.cache.store.recipe import Recipe
from crossllm.embed.distributed.batches import Batch, Done, PartDone
from crossllm.embed.encoder import Encoder, Loading
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.run.plan import Layout, Plan, RunOptions, Target
from crossllm.embed.run.storing import Outcome, store


class Code(NamedTuple):
    """What a worker's installation must have in common with the command's."""

    crossllm: str
    numpy: str


def own_code() -> Code:
    """Of this process."""
    return Code(version("crossllm-mamba"), np.__version__)


class Job(NamedTuple):
    """All that a worker is told of a run."""

    options: RunOptions
    """Paths in it are absolute: workers see the same folders."""
    cache: CacheName
    """Of an address each machine has copies of its own."""
    encoder: str
    recipes: tuple[Recipe, ...]
    """Those that are computed, in the order of the encoder's outputs."""
    layouts: tuple[Layout, ...]
    code: Code


class EncoderPlugin(TaskPlugin):
    """Holds the encoder of a run in a worker, from its first batch until the run is over."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._options = job.options
        self._encoder: Encoder | None = None

    async def teardown(self, worker: Any) -> None:
        """Called when the run or the worker ends: the batch at hand stops between two records and is committed."""
        await super().teardown(worker)
        self._encoder = None

    def prepare(self) -> None:
        """Load the encoder.

        Raises:
            InputError: it cannot be loaded here, or the cache is not to be seen.
        """
        self._loaded()

    def work(self, batch: Batch) -> Done | None:
        """Encode and store a batch."""
        done = self._store(self._loaded(), batch)
        return None if self.stopping.is_set() else done

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._check_code()
            self._options = dataclasses.replace(self._job.options, cache_dir=open_named(self._job.cache))
            self._check_cache()
            options, recipes = self._options, self._job.recipes
            info = ENCODERS[options.modality, self._job.encoder]
            self._encoder = info.load(Loading(recipes, options.weights, options.device, options.batch_tokens))
        return self._encoder

    def _check_code(self) -> None:
        """Raise `InputError` where rows would be other ones."""
        if (found := own_code()) != self._job.code:
            differ = ", ".join(
                f"{name} {theirs} (the command has {ours})"
                for name, theirs, ours in zip(Code._fields, found, self._job.code, strict=True)
                if theirs != ours
            )
            raise InputError(f"--dask: the worker on {gethostname()} has {differ}; install the same there")

    def _check_cache(self) -> None:
        """Raise `InputError` where rows would go elsewhere."""
        for recipe in self._job.recipes:
            folder = recipe.folder(self._options.cache_dir)
            if not folder.is_dir():
                raise InputError(
                    f"--dask: the worker on {gethostname()} does not see {folder}; the cache must lie where all "
                    "workers reach it by the same path"
                )

    def _store(self, encoder: Encoder, batch: Batch) -> Done:
        distinct = Distinct(RecordList.of(batch.records))
        places = np.arange(len(distinct))
        pairs = zip(self._job.recipes, self._job.layouts, strict=True)
        plan = Plan(distinct, tuple(Target(recipe, places, layout, places[:0]) for recipe, layout in pairs), places)
        outcome = Outcome(plan)
        for part, lacks in zip(outcome.parts, batch.lacks, strict=True):
            part.lacks[:] = lacks
        store(self._options, encoder, plan, outcome, None, self.stopping.is_set)
        notes = tuple(encoder.notes.items())
        encoder.notes.clear()
        parts = tuple(PartDone(part.stored, part.failures) for part in outcome.parts)
        return Done(parts, outcome.stored, outcome.residues, notes)


def job_of(options: RunOptions, encoder: str, plan: Plan) -> Job:
    """What the workers of a run are told."""
    told = dataclasses.replace(
        options,
        input=options.input.absolute(),
        cache_dir=options.cache_dir.absolute(),
        weights=options.weights and options.weights.absolute(),
        options=dict(options.options),
        ack_fd=None,
        dask=None,
        quiet=True,
    )
    wanted = plan.wanted
    recipes, layouts = tuple(t.recipe for t in wanted), tuple(t.layout for t in wanted)
    return Job(told, name_of(options.cache_dir), encoder, recipes, layouts, own_code())
