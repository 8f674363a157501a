"""`embed run`: records → encoder → cache.  Each distinct sequence once, whatever its ids; what is there is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cache import fsio
from cache.commit import commit_paths
from cache.console import note, say_notes, stop_between_records, write_skipped
from cache.errors import RowsRefused
from cache.idtable import publish_table
from cache.progress import hidden
from cache.reader import CacheReader
from cache.recipe import Recipe
from cache.records import UNITS, Record, Records, read_records
from cache.writer import CacheWriter, refuse_compressed_h5, sync_what_others_wrote
from embed.ack import Acknowledger
from embed.encoder import Encoder, EncoderInfo, Loading, NotEncoded
from embed.encoders import find_encoder
from embed.plan import Plan, RunOptions, make_plan, refuse_too_long, settle_recipe
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


class Outcome(NamedTuple):
    """What became of the pending sequences, filled while the run goes on."""

    stored: set[bytes]
    failures: dict[bytes, str]
    """Key → why its rows were refused."""


def run(options: RunOptions) -> RunSummary:
    """Embed every distinct sequence of a file that the cache does not hold yet.

    Raises:
        InputError: bad records or sequences that are too long (one line each), no such encoder, weights that cannot
            be used, a descriptor that cannot be written to; nothing was written.
        Conflict: the cache's recipe of this encoder differs from what was asked for.
    """
    refuse_compressed_h5(options.store, options.compressor)
    acknowledger = None if options.ack_fd is None else Acknowledger(options.ack_fd)
    info = find_encoder(options.modality, options.encoder, options.weights)
    options = dataclasses.replace(options, weights=options.weights or weights_at_hand(info.name))
    records = read_records(options.input, options.modality, options.on_bad)
    say_notes(options.input, records.notes, records.skipped, "records")
    recipe = settle_recipe(options, info)
    plan = make_plan(options.cache_dir, recipe, records)
    refuse_too_long(options, info, recipe, plan.pending)
    cut = left_out(recipe, [record.length for record in plan.distinct.values()])
    if cut.sequences:
        note(f"note: {options.input}: {cut_note(recipe, cut)}")
    encoder = _load(options, info, recipe) if plan.pending else None
    publish_table(options.cache_dir, options.modality, records.records)
    write_skipped(options.cache_dir, f"embed-{options.modality}", records.skipped)
    outcome = Outcome(set(), {})
    failed_list = recipe.folder(options.cache_dir) / "failed.tsv"
    try:
        if encoder is not None:
            _embed(options, encoder, recipe, plan, outcome, acknowledger)
            say_notes(options.input, encoder.notes, (), "molecules" if options.modality == "molecule" else "sequences")
    finally:
        if outcome.failures:
            _list_failures(failed_list, records, outcome.failures)
    if not outcome.failures:
        fsio.remove_file(failed_list)  # an earlier run's, now made good; a run cut off above leaves it
    sync_what_others_wrote(options.cache_dir, recipe)
    residues = sum(r.length for r in plan.distinct.values())
    already = len(plan.distinct) - len(outcome.stored) - len(outcome.failures)
    return RunSummary(
        str(options.cache_dir),
        recipe.folder_name,
        len(records.records),
        len(plan.distinct),
        residues,
        already,
        len(outcome.stored),
        len(outcome.failures),
        len(records.skipped),
        str(failed_list) if outcome.failures else None,
        *cut,
    )


def _load(options: RunOptions, info: EncoderInfo, recipe: Recipe) -> Encoder:
    return info.load(Loading(recipe, options.weights, options.device, options.batch_tokens))


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
        CacheWriter(
            options.cache_dir,
            recipe,
            segment_bytes=options.segment_bytes,
            store=options.store,
            compressor=options.compressor,
            on_commit=acknowledge,
        ) as writer,
    ):
        if acknowledge is not None:
            acknowledge.stopping = stopping
        pending = _not_done_by_others(options.cache_dir, recipe, plan.pending)
        for key, rows in _with_progress(encoder, pending, plan, options.quiet):
            if isinstance(rows, NotEncoded):
                outcome.failures[key] = rows.reason
                continue
            expected = recipe.rows_of(plan.distinct[key].length)
            if rows.shape[0] != expected:
                raise RuntimeError(f"{encoder.name} gave {rows.shape[0]} rows for {expected} {UNITS[options.modality]}")
            try:
                writer.add(key, rows)
                outcome.stored.add(key)
            except RowsRefused as refusal:
                outcome.failures[key] = str(refusal)
            if stopping():
                break


def _not_done_by_others(cache_dir: Path, recipe: Recipe, pending: list[Record]) -> Iterator[Record]:
    """The pending records, the commits listed again before every `BATCH`: what another writer did is left out."""
    listed, reader = commit_paths(recipe.folder(cache_dir)), CacheReader(cache_dir, recipe)
    for start in range(0, len(pending), BATCH):
        if (now := commit_paths(recipe.folder(cache_dir))) != listed:
            listed, reader = now, CacheReader(cache_dir, recipe)
        yield from (record for record in pending[start : start + BATCH] if record.key not in reader)


def _with_progress(
    encoder: Encoder, pending: Iterable[Record], plan: Plan, quiet: bool
) -> Iterator[tuple[bytes, np.ndarray | NotEncoded]]:
    from tqdm import tqdm

    residues = sum(record.length for record in plan.pending)
    with tqdm(total=residues, unit="res", unit_scale=True, desc=encoder.name, disable=hidden(quiet)) as bar:
        for key, rows in encoder.encode(pending):
            yield key, rows
            bar.update(plan.distinct[key].length)


def _list_failures(path: Path, records: Records, failures: dict[bytes, str]) -> None:
    """Write `failed.tsv`: every id whose sequence could not be stored, with the reason."""
    rows = ((r.id, r.key.hex(), str(r.length), failures[r.key]) for r in records.records if r.key in failures)
    fsio.replace(path, "".join("\t".join(row) + "\n" for row in (FAILED_COLUMNS, *rows)).encode())
