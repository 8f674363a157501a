"""The middle of `embed run`: what is pending goes through the encoder once, and into every recipe that lacks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from crossllm.cache.console.progress import residue_progress
from crossllm.cache.console.runner import stop_between_records
from crossllm.cache.errors import RowsRefused
from crossllm.cache.records.keys import ABSENT
from crossllm.cache.records.modality import UNITS
from crossllm.cache.records.record import Record
from crossllm.cache.records.record_list import Records
from crossllm.cache.remote.by_path import replace
from crossllm.cache.store.background_writer import BackgroundWriter
from crossllm.cache.store.commit import commit_paths
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.writer import CacheWriter, sync_what_others_wrote
from crossllm.embed.encoder import Encoder, NotEncoded, Outputs
from crossllm.embed.run.ack import Acknowledger
from crossllm.embed.run.joint_ack import JointAck
from crossllm.embed.run.plan import Plan, RunOptions, Target

BATCH = 64
"""Records between two looks at what other writers have committed."""
_SHORT = 0.05
"""Seconds that a look may take each time.  A longer one, of 10⁴ segments or more, is taken less often."""
_SHARE = 20
"""So many times as long as a long look took, what it saw is taken to be so: what others do meanwhile is done twice."""
FAILED_COLUMNS = ("id", "key", "length", "reason")


class Part:
    """One recipe's part in a run, filled while it goes on."""

    def __init__(self, target: Target, count: int) -> None:
        self.target = target
        self.lacks = np.zeros(count, bool)
        """Which of the distinct sequences it had no rows of when they were handed to the encoder."""
        self.stored = 0
        self.failures: dict[bytes, str] = {}
        """Key → why it has no rows."""


class Outcome:
    """What became of the pending sequences, filled while the run goes on."""

    def __init__(self, plan: Plan) -> None:
        self.handed = np.zeros(len(plan.distinct), bool)
        """Which of the distinct sequences the encoder was given and has not answered."""
        self.parts = [Part(target, len(plan.distinct)) for target in plan.targets]
        self.stored = 0
        """Sequences stored in every recipe that lacked them."""
        self.residues = 0
        """Rows of these in one recipe."""

    @property
    def failed(self) -> int:
        """Sequences that one recipe or more has no rows of."""
        return len(set().union(*(part.failures for part in self.parts)))


def store(
    options: RunOptions,
    encoder: Encoder,
    plan: Plan,
    outcome: Outcome,
    acknowledger: Acknowledger | None,
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Encode and store what is pending, noting in `outcome` what was stored and what was refused.

    Args:
        options: what was asked for.
        encoder: gives an output for each of `plan.wanted`.
        plan: what is pending.
        outcome: filled here.
        acknowledger: is told what is committed.
        stopped: says whether the work is to end early.  Given where the plan is a worker's share (`Part.lacks` says
            what is asked for): what other writers commit meanwhile is not looked at.
    """
    parts = [part for part in outcome.parts if len(part.target.places)]
    joint = None if acknowledger is None else JointAck(acknowledger)
    # What is acknowledged is on disk in all recipes, in those as well into which another writer put it.
    durable = joint is not None and len(plan.targets) > 1
    for target in plan.targets if durable else ():
        sync_what_others_wrote(options.cache_dir, target.recipe)
    with ExitStack() as stack:
        stopping = stopped or stack.enter_context(stop_between_records())
        writers = [stack.enter_context(_writer(options, part.target, len(parts), joint)) for part in parts]
        seen = stack.enter_context(residue_progress(int(plan.rows.sum()), encoder.name, options.quiet))
        if acknowledger is not None:
            acknowledger.stopping = stopping
        shared = stopped is None
        pending = _pending(options.cache_dir, plan, parts, outcome, durable) if shared else _handed(plan, outcome)
        for key, found in encoder.encode(pending):
            place = _answered(encoder, plan, outcome, key)
            expected = plan.recipe.rows_of(int(plan.distinct.lengths[place]))
            seen(expected)
            if isinstance(found, NotEncoded):
                for part in parts:
                    if part.lacks[place]:
                        part.failures[key] = found.reason
                continue
            wrong = next((rows.shape[0] for rows in found if rows.shape[0] != expected), None)
            if wrong is not None:
                raise RuntimeError(f"{encoder.name} gave {wrong} rows for {expected} {UNITS[options.modality]}")
            if _stored(parts, writers, joint, place, key, found):
                outcome.stored += 1
                outcome.residues += expected
            if stopping():
                break
    if outcome.handed.any() and not stopping():  # not after a signal: that has taken effect above
        raise RuntimeError(f"{encoder.name} gave no answer on {outcome.handed.sum()} sequences")


def _writer(options: RunOptions, target: Target, writers: int, joint: JointAck | None) -> BackgroundWriter:
    """The writer of one of so many recipes, which share the memory in which rows wait."""
    writer = CacheWriter(
        options.cache_dir,
        target.recipe,
        segment_bytes=options.segment_bytes,
        store=target.layout.store,
        compressor=target.layout.compressor,
        on_commit=None if joint is None else joint.committed,
    )
    return BackgroundWriter(writer, options.write_ahead // writers)


def _stored(
    parts: Sequence[Part],
    writers: Sequence[BackgroundWriter],
    joint: JointAck | None,
    place: int,
    key: bytes,
    outputs: Outputs,
) -> bool:
    """Store a record in every recipe that lacks it; whether all of them took it."""
    if joint is not None:
        joint.expect(key, sum(bool(part.lacks[place]) for part in parts))
    refused = False
    for part, writer, rows in zip(parts, writers, outputs, strict=True):
        if not part.lacks[place]:
            continue
        try:
            writer.add(key, rows)
            part.stored += 1
        except RowsRefused as refusal:
            part.failures[key], refused = str(refusal), True
            if joint is not None:
                joint.forget(key)
    return not refused


def _answered(encoder: Encoder, plan: Plan, outcome: Outcome, key: bytes) -> int:
    """Place of a key that the encoder answers on, among the distinct ones; each is answered on once."""
    place = plan.distinct.find(key)
    if place == ABSENT or not outcome.handed[place]:
        raise RuntimeError(f"{encoder.name} answered on {key.hex()}, which it was not asked for or has answered on")
    outcome.handed[place] = False
    return place


class _Held:
    """What a recipe holds, listed again where other writers have committed meanwhile."""

    def __init__(self, cache_dir: Path, recipe: Recipe, durable: bool) -> None:
        """`durable`: what is listed is on disk before it counts."""
        self._cache_dir, self._recipe, self._durable = cache_dir, recipe, durable
        self._listed: list[Path] = []
        self._reader: CacheReader | None = None
        self._next_look = 0.0

    def absent(self, digests: np.ndarray) -> np.ndarray:
        """(m,) bool: which of these keys, (m, 32), it has no rows of now."""
        begun = time.monotonic()
        if self._reader is None or begun >= self._next_look:
            self._look()
            took = time.monotonic() - begun
            self._next_look = begun + (_SHARE * took if took > _SHORT else 0)
        assert self._reader is not None
        return self._reader.absent(digests)

    def _look(self) -> None:
        """List the commits, and open the cache anew where there are others."""
        now = commit_paths(self._recipe.folder(self._cache_dir))
        if self._reader is None or now != self._listed:
            self._reader = None  # before the next one is made: its index is all keys of the cache
            self._listed, self._reader = now, CacheReader(self._cache_dir, self._recipe)
            if self._durable:
                sync_what_others_wrote(self._cache_dir, self._recipe)


def _pending(cache_dir: Path, plan: Plan, parts: Sequence[Part], outcome: Outcome, durable: bool) -> Iterator[Record]:
    """The pending records, the commits listed again before every `BATCH`: what another writer did is left out."""
    held = [_Held(cache_dir, part.target.recipe, durable) for part in parts]
    for start in range(0, len(plan.places), BATCH):
        places = plan.places[start : start + BATCH]
        digests = plan.distinct.digests[places]
        for part, own in zip(parts, held, strict=True):
            part.lacks[places] = own.absent(digests)
        places = places[np.any([part.lacks[places] for part in parts], axis=0)]
        outcome.handed[places] = True
        yield from plan.distinct.records.take(places)


def _handed(plan: Plan, outcome: Outcome) -> Iterator[Record]:
    """The pending records, whoever else writes."""
    outcome.handed[plan.places] = True
    yield from plan.pending


def list_failures(path: Path, records: Records, failures: dict[bytes, str]) -> None:
    """Write `failed.tsv`: every id whose sequence could not be stored, with the reason."""
    rows = ((r.id, r.key.hex(), str(r.length), failures[r.key]) for r in records.records if r.key in failures)
    replace(path, "".join("\t".join(row) + "\n" for row in (FAILED_COLUMNS, *rows)).encode())
