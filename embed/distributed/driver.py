"""In the command: hands batches to a cluster's workers, counts what they answer, and tries again what was lost.

A worker that ends, however it does, loses what it had not committed: the cache says what that is, and it is handed out
again in smaller pieces (`batches.split`).  A record that has ended three workers, alone at the last, is a failure.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from crossllm.cache.cluster.opening import Cluster
from crossllm.cache.cluster.sending import Answer, Fate, Sender
from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.writer import sync_what_others_wrote
from crossllm.embed.distributed.batches import Batch, Done, Task, cut, split
from crossllm.embed.encoder import EncoderInfo
from crossllm.embed.run.ack import Acknowledger
from crossllm.embed.run.plan import Plan, RunOptions
from crossllm.embed.run.storing import Outcome

MOST_DEATHS = 3
"""Workers that a record may end."""
QUARANTINED = f"{MOST_DEATHS} workers ended while they encoded it, the last of them nothing else"
CHEAP = 1 << 18
"""Least residues of a batch for an encoder without weights, which takes a second for so many."""
AHEAD = 16
"""Batches with the scheduler beyond two for each worker: an adaptive cluster grows by what waits there."""


class Driver:
    """One run's batches on a cluster.

    Args:
        cluster: an open one.
        options: what `embed run` was asked for.
        info: its encoder.
        plan: what is pending.
        outcome: filled while answers come in.
        seen: is told the rows of what is done.
        acknowledger: is told what is committed.
    """

    def __init__(
        self,
        cluster: Cluster,
        options: RunOptions,
        info: EncoderInfo,
        plan: Plan,
        outcome: Outcome,
        seen: Callable[[int], object],
        acknowledger: Acknowledger | None,
    ) -> None:
        from crossllm.embed.distributed.worker import job_of

        self._cluster, self._options, self._plan, self._outcome = cluster, options, plan, outcome
        self._seen, self._acknowledger = seen, acknowledger
        self._sender = Sender[Task](cluster, "embed")
        self._job = job_of(options, info.name, plan)
        self._least = options.batch_tokens if info.source else CHEAP
        self._parts = [part for part in outcome.parts if len(part.target.places)]
        for part in self._parts:
            part.lacks[part.target.places] = True
        self._waiting: deque[Task] = deque()
        self._in_vain = 0
        """Workers that have ended since a batch was last done."""
        self.notes: Counter[str] = Counter()
        """Of the encoder's input."""

    def run(self, stopping: Callable[[], bool]) -> None:
        """Hand out everything, until all is answered or the run is to stop.

        Raises:
            InputError: a worker cannot do it, or none lives long enough to.
            OSError: the disk, or the connection to the scheduler.
        """
        from crossllm.embed.distributed.worker import EncoderPlugin

        with self._sender.registered(EncoderPlugin(self._job)):
            plan = self._plan
            row_bytes = sum(r.dim * np.dtype(r.dtype).itemsize for r in self._job.recipes)
            most = self._options.segment_bytes // row_bytes
            for places in cut(plan.lengths, max(1, self._sender.workers()), self._least, most):
                self._wait(plan.places[places])
            while (self._waiting or len(self._sender)) and not stopping():
                while self._waiting and len(self._sender) < 2 * self._sender.workers() + AHEAD:
                    self._submit(self._waiting.popleft())
                if (answer := self._sender.answer()) is not None:
                    self._settle(answer)
        if not stopping():
            self._check_seen()

    def _wait(self, places: np.ndarray, deaths: int = 0, *, first: bool = False) -> None:
        """These sequences are to be handed out: as the next ones, or after all others."""
        (self._waiting.appendleft if first else self._waiting.append)(Task(places, deaths))

    def _submit(self, task: Task) -> None:
        records = tuple(self._plan.distinct.records.take(task.places))
        lacks = np.array([part.lacks[task.places] for part in self._parts])
        self._sender.send(task, Batch(records, lacks))

    def _settle(self, answer: Answer[Task]) -> None:
        if answer.fate == "done":
            self._count(answer.task, answer.result)
        else:
            self._again(answer.task, answer.fate)

    def _count(self, task: Task, done: Done) -> None:
        self._in_vain = 0
        self.notes.update(dict(done.notes))
        for part, found in zip(self._parts, done.parts, strict=True):
            part.stored += found.stored
            part.failures |= found.failures
            part.lacks[task.places] = False
        failed = set[bytes]().union(*(found.failures for found in done.parts))
        self._done(task.places, done.stored, done.residues, failed)

    def _done(self, places: np.ndarray, stored: int, residues: int, failed: set[bytes]) -> None:
        self._outcome.stored += stored
        self._outcome.residues += residues
        self._seen(self._rows(places))
        if self._acknowledger is not None and len(places):
            if len(self._plan.targets) > 1:  # another run may have put a key into one of them
                for target in self._plan.targets:
                    sync_what_others_wrote(self._options.cache_dir, target.recipe)
            keys = (digest.tobytes() for digest in self._plan.distinct.digests[places])
            self._acknowledger([key for key in keys if key not in failed])

    def _again(self, task: Task, fate: Fate) -> None:
        """What a batch has not committed is handed out once more."""
        missing = self._missing(task)
        deaths = task.deaths + (fate == "died")
        self._in_vain += fate != "left"
        if self._in_vain > max(20, 2 * MOST_DEATHS * self._sender.workers()):
            raise InputError(
                f"--dask {self._cluster.name.text}: {self._in_vain} times one after the other a worker ended and no "
                "batch was done; its output says why (out of memory? then give each more, or name fewer)"
            )
        if not len(missing):
            return
        if fate != "died":
            self._wait(missing, deaths, first=True)
            return
        some = f"{len(missing)} sequences are" if len(missing) > 1 else "1 sequence is"
        if len(missing) == 1 and deaths >= MOST_DEATHS:
            self._quarantine(int(missing[0]))
            return
        note(f"note: --dask: a worker ended, {some} encoded again")
        for piece in reversed(split(missing, deaths)):
            self._wait(piece, deaths, first=True)

    def _missing(self, task: Task) -> np.ndarray:
        """Places of a batch's sequences that some recipe still lacks; what is committed counts as done."""
        places, distinct = task.places, self._plan.distinct
        self._list_anew()
        for part in self._parts:
            absent = CacheReader(self._options.cache_dir, part.target.recipe).absent(distinct.digests[places])
            part.stored += int((part.lacks[places] & ~absent).sum())
            part.lacks[places] &= absent
        missing = np.any([part.lacks[places] for part in self._parts], axis=0)
        held = places[~missing]
        if len(held):
            for part in self._parts:
                sync_what_others_wrote(self._options.cache_dir, part.target.recipe)
        self._done(held, len(held), self._rows(held), set())
        return places[missing]

    def _list_anew(self) -> None:
        if (mirror := mirror_of(self._options.cache_dir)) is not None:
            mirror.list_anew()

    def _quarantine(self, place: int) -> None:
        record = self._plan.distinct.records[place]
        for part in self._parts:
            if part.lacks[place]:
                part.failures[record.key], part.lacks[place] = QUARANTINED, False
        note(f"note: --dask: {record.id}: {QUARANTINED}; it is left out, and the rest goes on")
        self._seen(self._rows(np.array([place])))

    def _rows(self, places: np.ndarray) -> int:
        recipe = self._plan.recipe
        return sum(recipe.rows_of(int(length)) for length in self._plan.distinct.lengths[places])

    def _check_seen(self) -> None:
        """Raise `InputError` where what workers have stored is not in the cache as this machine sees it."""
        self._list_anew()
        for part in self._parts:
            asked = part.target.places
            done = asked[~part.lacks[asked]]
            absent = CacheReader(self._options.cache_dir, part.target.recipe).absent(self._plan.distinct.digests[done])
            if lost := int(absent.sum()) - len(part.failures):
                raise InputError(
                    f"{self._options.cache_dir}: {lost} records that workers have stored are not here; the cache must "
                    "lie where all workers reach it by the same path"
                )
