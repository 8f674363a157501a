"""`embed run`: records → encoder → cache.  Each distinct sequence once, whatever its ids; what is there is left out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cache import fsio
from cache.background import BackgroundWriter
from cache.commit import commit_paths
from cache.compact import require_space
from cache.console import note, say_notes, stop_between_records, write_skipped
from cache.errors import RowsRefused
from cache.idtable import publish_table
from cache.keys import ABSENT
from cache.progress import residue_progress
from cache.reader import CacheReader
from cache.recipe import Recipe
from cache.records import KINDS, UNITS, Record, Records, read_records
from cache.writer import CacheWriter, refuse_compressed_h5, sync_what_others_wrote
from embed.ack import Acknowledger
from embed.dryrun import announce
from embed.encoder import Encoder, EncoderInfo, Loading, NotEncoded
from embed.encoders import find_encoder
from embed.plan import Plan, RunOptions, asked_layout, existing_folder, make_plan, refuse_too_long, settle_recipe
from embed.published import weights_at_hand
from embed.windows import cut_note, left_out

BATCH = 64
"""Records between two looks at what other writers have committed."""
FAILED_COLUMNS = ("id", "key", "length", "reason")


class RunSummary(NamedTuple):
    """What one `embed run` did."""

    cache: str
    recipe: str
    """Folder name of the recipe."""
    records: int
    distinct: int
    """Distinct sequences of the input."""
    residues: int
    """Of the distinct sequences."""
    already: int
    """Distinct sequences that were in the cache before."""
    embedded: int
    failed: int
    skipped: int
    """Bad records left out under `--on-bad skip`."""
    failed_list: str | None
    """File that lists what failed, with reasons."""
    cut: int
    """Distinct sequences that are longer than the recipe's truncate:N, whose first N rows are stored."""
    cut_residues: int
    """What of them has no row."""
    layer: str | None
    """Of the recipe; None: the last."""
    compute: str
    long: str
    """What the recipe says of sequences beyond the encoder's limit."""
    residues_embedded: int
    seconds: float
    """Of encoding and storing, without reading the input and loading the encoder."""


class Outcome:
    """What became of the pending sequences, filled while the run goes on."""

    def __init__(self, plan: Plan) -> None:
        self.handed = np.zeros(len(plan.distinct), bool)
        """Which of the distinct sequences the encoder was given and has not answered."""
        self.stored = 0
        self.residues = 0
        """Rows stored."""
        self.failures: dict[bytes, str] = {}
        """Key → why it has no rows."""


def run(options: RunOptions) -> RunSummary:
    """Embed every distinct sequence of a file that the cache does not hold yet.

    Raises:
        InputError: bad records or sequences that are too long (one line each), no such encoder, weights that cannot
            be used, a descriptor that cannot be written to; nothing was written.
        Conflict: the cache's recipe of this encoder differs from what was asked for.
        OSError: the disk has not the space; nothing was written.
    """
    refuse_compressed_h5(*asked_layout(options))
    acknowledger = None if options.ack_fd is None else Acknowledger(options.ack_fd)
    info = find_encoder(options.modality, options.encoder, options.weights)
    options = dataclasses.replace(options, weights=options.weights or weights_at_hand(info.name))
    records = read_records(options.input, options.modality, options.on_bad)
    say_notes(options.input, records.notes, records.skipped, "records")
    recipe = settle_recipe(options, info)
    plan = make_plan(options, recipe, records)
    refuse_too_long(options, info, recipe, plan.pending)
    cut = left_out(recipe, plan.distinct.lengths)
    if cut.sequences:
        note(f"note: {options.input}: {cut_note(recipe, cut)}")
    _look_for_space(options, plan, len(records.records))
    announce(options, info, plan, len(records.records))
    encoder = _load(options, info, recipe) if len(plan.places) else None
    publish_table(options.cache_dir, options.modality, records.records)
    write_skipped(options.cache_dir, f"embed-{options.modality}", records.skipped)
    outcome = Outcome(plan)
    failed_list = recipe.folder(options.cache_dir) / "failed.tsv"
    begun = time.perf_counter()
    try:
        if encoder is not None:
            _embed(options, encoder, recipe, plan, outcome, acknowledger)
            say_notes(options.input, encoder.notes, (), KINDS[options.modality])
    finally:
        if outcome.failures:
            _list_failures(failed_list, records, outcome.failures)
    if not outcome.failures:
        fsio.remove_file(failed_list)  # an earlier run's, now made good; a run cut off above leaves it
    sync_what_others_wrote(options.cache_dir, recipe)
    return RunSummary(
        cache=str(options.cache_dir),
        recipe=recipe.folder_name,
        records=len(records.records),
        distinct=len(plan.distinct),
        residues=plan.residues,
        already=len(plan.distinct) - outcome.stored - len(outcome.failures),
        embedded=outcome.stored,
        failed=len(outcome.failures),
        skipped=len(records.skipped),
        failed_list=str(failed_list) if outcome.failures else None,
        cut=cut.sequences,
        cut_residues=cut.rows,
        layer=recipe.layer,
        compute=recipe.compute,
        long=recipe.long,
        residues_embedded=outcome.residues,
        seconds=round(time.perf_counter() - begun, 3),
    )


def _look_for_space(options: RunOptions, plan: Plan, records: int) -> None:
    """Stop before anything is written where the disk cannot hold the rows; say it where compression may help."""
    try:
        require_space(existing_folder(options.cache_dir), plan.bytes(options.segment_bytes, records))
    except OSError as error:
        if plan.layout.compressor is None:
            raise
        note(f"note: {error.filename}: {str(error.strerror).partition(',')[0]}, before compression")


def _load(options: RunOptions, info: EncoderInfo, recipe: Recipe) -> Encoder:
    return info.load(Loading((recipe,), options.weights, options.device, options.batch_tokens))


def _embed(
    options: RunOptions,
    encoder: Encoder,
    recipe: Recipe,
    plan: Plan,
    outcome: Outcome,
    acknowledge: Acknowledger | None,
) -> None:
    """Encode and store what is pending, noting in `outcome` what was stored and what was refused."""
    with (
        stop_between_records() as stopping,
        BackgroundWriter(
            CacheWriter(
                options.cache_dir,
                recipe,
                segment_bytes=options.segment_bytes,
                store=plan.layout.store,
                compressor=plan.layout.compressor,
                on_commit=acknowledge,
            ),
            options.write_ahead,
        ) as writer,
        residue_progress(int(plan.rows.sum()), encoder.name, options.quiet) as seen,
    ):
        if acknowledge is not None:
            acknowledge.stopping = stopping
        pending = _not_done_by_others(options.cache_dir, recipe, plan, outcome)
        for key, found in encoder.encode(pending):
            place = _answered(encoder, plan, outcome, key)
            expected = recipe.rows_of(int(plan.distinct.lengths[place]))
            seen(expected)
            if isinstance(found, NotEncoded):
                outcome.failures[key] = found.reason
                continue
            (rows,) = found
            if rows.shape[0] != expected:
                raise RuntimeError(f"{encoder.name} gave {rows.shape[0]} rows for {expected} {UNITS[options.modality]}")
            try:
                writer.add(key, rows)
                outcome.stored += 1
                outcome.residues += expected
            except RowsRefused as refusal:
                outcome.failures[key] = str(refusal)
            if stopping():
                break
    if outcome.handed.any():  # not after a signal: that has taken effect above
        raise RuntimeError(f"{encoder.name} gave no answer on {outcome.handed.sum()} sequences")


def _answered(encoder: Encoder, plan: Plan, outcome: Outcome, key: bytes) -> int:
    """Place of a key that the encoder answers on, among the distinct ones; each is answered on once."""
    place = plan.distinct.find(key)
    if place == ABSENT or not outcome.handed[place]:
        raise RuntimeError(f"{encoder.name} answered on {key.hex()}, which it was not asked for or has answered on")
    outcome.handed[place] = False
    return place


def _not_done_by_others(cache_dir: Path, recipe: Recipe, plan: Plan, outcome: Outcome) -> Iterator[Record]:
    """The pending records, the commits listed again before every `BATCH`: what another writer did is left out."""
    listed, reader = commit_paths(recipe.folder(cache_dir)), CacheReader(cache_dir, recipe)
    for start in range(0, len(plan.places), BATCH):
        if (now := commit_paths(recipe.folder(cache_dir))) != listed:
            del reader  # before the next one is made: its index is all keys of the cache
            listed, reader = now, CacheReader(cache_dir, recipe)
        places = plan.places[start : start + BATCH]
        places = places[reader.absent(plan.distinct.digests[places])]
        outcome.handed[places] = True
        yield from plan.distinct.records.take(places)


def _list_failures(path: Path, records: Records, failures: dict[bytes, str]) -> None:
    """Write `failed.tsv`: every id whose sequence could not be stored, with the reason."""
    rows = ((r.id, r.key.hex(), str(r.length), failures[r.key]) for r in records.records if r.key in failures)
    fsio.replace(path, "".join("\t".join(row) + "\n" for row in (FAILED_COLUMNS, *rows)).encode())
