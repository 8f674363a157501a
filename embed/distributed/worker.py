"""In a worker: the encoder, loaded once, and batches that it encodes and stores with the cache's own writer.

distributed gives a task whose worker has died to the next one.  A batch must not do that: it may be what killed the
worker.  So its beginning is noted with the scheduler, and a batch that was begun before is answered, not tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import version
from socket import gethostname
from threading import Event, Lock
from traceback import format_exc
from typing import Any, NamedTuple

import numpy as np
from distributed import Event as SharedEvent
from distributed import WorkerPlugin, get_worker
from distributed.utils import sync

from crossllm.cache.errors import InputError
from crossllm.cache.records.record_list import Distinct, RecordList
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

    run: str
    """Its name with the scheduler."""
    options: RunOptions
    """Paths in it are absolute: workers see the same folders."""
    encoder: str
    recipes: tuple[Recipe, ...]
    """Those that are computed, in the order of the encoder's outputs."""
    layouts: tuple[Layout, ...]
    code: Code

    def begun(self, number: int) -> str:
        """Name of the event that says that a batch was begun."""
        return f"{self.run}-{number}"


class _Line:
    """A worker's own line to the scheduler, in place of a whole client in each worker."""

    def __init__(self, worker: Any) -> None:
        self.scheduler, self._loop = worker.scheduler, worker.loop

    def sync(self, call: Callable[..., Any], **named: Any) -> Any:
        """What a call of the event loop gives."""
        return sync(self._loop, call, **named)


class EncoderPlugin(WorkerPlugin):
    """Holds the encoder of a run in a worker, from its first batch until the run is over."""

    def __init__(self, job: Job) -> None:
        self.name = job.run
        self._job = job

    def setup(self, worker: Any) -> None:
        """Called in each worker, those that come later too."""
        self._busy, self._stopping = Lock(), Event()
        self._line = _Line(worker)
        self._encoder: Encoder | None = None

    def teardown(self, worker: Any) -> None:
        """Called when the run or the worker ends: the batch at hand stops between two records and is committed."""
        self._stopping.set()
        self._encoder = None

    def encode(self, batch: Batch) -> Done:
        """Encode and store a batch; one at a time, however many threads the worker has.

        Raises:
            InputError: the encoder cannot be loaded here, or the cache is not to be seen.
        """
        with self._busy:
            if self._stopping.is_set():
                return Done(False)
            encoder = self._loaded()
            begun = SharedEvent(self._job.begun(batch.number), client=self._line)
            if begun.is_set():
                begun.clear()
                return Done(False, died=True)
            begun.set()
            try:
                return self._store(encoder, batch)
            finally:
                begun.clear()

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._check()
            options, recipes = self._job.options, self._job.recipes
            info = ENCODERS[options.modality, self._job.encoder]
            self._encoder = info.load(Loading(recipes, options.weights, options.device, options.batch_tokens))
        return self._encoder

    def _check(self) -> None:
        """Raise `InputError` where rows would be other ones, or go elsewhere."""
        if (found := own_code()) != self._job.code:
            differ = ", ".join(
                f"{name} {theirs} (the command has {ours})"
                for name, theirs, ours in zip(Code._fields, found, self._job.code, strict=True)
                if theirs != ours
            )
            raise InputError(f"--dask: the worker on {gethostname()} has {differ}; install the same there")
        for recipe in self._job.recipes:
            folder = recipe.folder(self._job.options.cache_dir)
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
        store(self._job.options, encoder, plan, outcome, None, self._stopping.is_set)
        notes = tuple(encoder.notes.items())
        encoder.notes.clear()
        parts = tuple(PartDone(part.stored, part.failures) for part in outcome.parts)
        return Done(not self._stopping.is_set(), parts, outcome.stored, outcome.residues, notes)


def encode_batch(run: str, batch: Batch) -> Done:
    """A task of a run: see `EncoderPlugin.encode`."""
    plugin = get_worker().plugins.get(run)
    if not isinstance(plugin, EncoderPlugin):
        return Done(False)
    try:
        return plugin.encode(batch)
    except Exception as error:
        error.add_note(f"in the worker on {gethostname()}:\n{format_exc(limit=-8)}")
        error.__traceback__ = error.__context__ = error.__cause__ = None  # frames need not survive the journey
        return Done(False, error=error)


def job_of(run: str, options: RunOptions, encoder: str, plan: Plan) -> Job:
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
    return Job(run, told, encoder, recipes, layouts, own_code())
