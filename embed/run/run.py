"""`embed run`: records → encoder → cache.  Each distinct sequence once, whatever its ids; what is there is left out."""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.cluster.opening import require_dask
from crossllm.cache.cluster.sizing import check_device
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import note, say_notes, write_skipped
from crossllm.cache.errors import Conflict
from crossllm.cache.maintenance.compact import require_space
from crossllm.cache.records.id_table import publish_table, read_table
from crossllm.cache.records.modality import KINDS
from crossllm.cache.records.record_list import Records
from crossllm.cache.remote.by_path import discard
from crossllm.cache.remote.opening import shown
from crossllm.cache.store.store_folder import store_folder
from crossllm.cache.store.writer import refuse_compressed_h5, sync_what_others_wrote
from crossllm.embed.distributed.spreading import store_on_cluster
from crossllm.embed.encoder import Encoder, EncoderInfo, Loading
from crossllm.embed.encoders.registry import find_encoder
from crossllm.embed.encoders.windows import cut_note, left_out
from crossllm.embed.run.ack import Acknowledger
from crossllm.embed.run.dry_run_lines import announce
from crossllm.embed.run.from_cache import check_source, take_rows
from crossllm.embed.run.plan import Plan, RunOptions, asked_layout, asked_records, existing_folder, make_plan
from crossllm.embed.run.recipes import refuse_too_long, resolve_recipes
from crossllm.embed.run.storing import Outcome, Part, list_failures, store
from crossllm.embed.weights.published import local_weights


class RecipeSummary(NamedTuple):
    """What one run did in one recipe; it counts distinct sequences."""

    recipe: str
    """Folder name."""
    layer: str | None
    """None: the last, or the only one."""
    already: int
    """That were in it before, or came from another writer meanwhile."""
    embedded: int
    failed: int
    failed_list: str | None
    """File that lists what failed, with reasons."""
    copied: int
    """From `--from-cache`."""


class RunSummary(NamedTuple):
    """What one `embed run` did."""

    cache: str
    recipes: tuple[RecipeSummary, ...]
    """One for each layer asked for, in that order."""
    records: int
    distinct: int
    """Distinct sequences of the input."""
    residues: int
    """Of the distinct sequences."""
    already: int
    """Distinct sequences that all recipes had rows of."""
    embedded: int
    """Distinct sequences that were computed, once each, and stored in every recipe that lacked them."""
    failed: int
    """Distinct sequences that one recipe or more has no rows of."""
    skipped: int
    """Bad records left out under `--on-bad skip`."""
    cut: int
    """Distinct sequences that are longer than the recipe's truncate:N, whose first N rows are stored."""
    cut_residues: int
    """What of them has no row."""
    compute: str
    long: str
    """What the recipes say of sequences beyond the encoder's limit."""
    residues_embedded: int
    """Rows of what was embedded, in one recipe."""
    seconds: float
    """Of encoding and storing, without reading the input and loading the encoder."""
    shard_index: int | None
    """Of the shard that was embedded, counted from 0; all counts are of this shard.  None: everything was."""
    num_shards: int | None
    copied: int
    """Distinct sequences that lacked rows and got all of them from `--from-cache`."""


def run(options: RunOptions) -> RunSummary:
    """Embed every distinct sequence of a file that the cache does not hold yet, in each layer asked for.

    Raises:
        InputError: bad records or sequences that are too long (one line each), no such encoder or layer, weights that
            cannot be used, a descriptor that cannot be written to; nothing was written.
        Conflict: the cache's recipe of this encoder differs from what was asked for, or those of several layers from
            one another, or that of `from_cache`.
        OSError: the disk has not the space; nothing was written.
    """
    refuse_compressed_h5(*asked_layout(options))
    if options.dask is not None:
        require_dask()
        check_device(options.dask, options.device)
    acknowledger = None if options.ack_fd is None else Acknowledger(options.ack_fd)
    info = find_encoder(options.modality, options.encoder, options.weights)
    options = dataclasses.replace(options, weights=options.weights or local_weights(info.name))
    records = asked_records(options)
    recipes = resolve_recipes(options, info)
    check_source(options, recipes)
    plan = make_plan(options, recipes, records)
    refuse_too_long(options, info, plan)
    if info.source and plan.wanted:  # it runs on torch
        prepare_machine()
    cut = left_out(plan.recipe, plan.distinct.lengths)
    if cut.sequences:
        note(f"note: {options.input}: {cut_note(plan.recipe, cut)}")
    _look_for_space(options, plan, len(records.records))
    if (home := store_folder(options.cache_dir)) != options.cache_dir:
        note(f"note: {options.cache_dir / 'dataset.toml'}: the rows are kept in {home}")
    announce(options, info, plan, len(records.records))
    elsewhere = plan.elsewhere
    plan, taken = take_rows(options, plan, records)
    copied = len(np.setdiff1d(elsewhere, plan.places))
    encoder = _load(options, info, plan) if plan.wanted and options.dask is None else None
    with _nothing_lost(options, plan, "the table of ids stays as it is"):
        _publish_ids(options, records)
    with _nothing_lost(options, plan, "the list of what was left out is not written"):
        write_skipped(options.cache_dir, f"embed-{options.modality}", records.skipped)
    outcome = Outcome(plan)
    begun = time.perf_counter()
    try:
        if encoder is not None:
            store(options, encoder, plan, outcome, acknowledger)
            say_notes(options.input, encoder.notes, (), KINDS[options.modality])
        elif plan.wanted:
            notes = store_on_cluster(options, info, plan, outcome, acknowledger)
            say_notes(options.input, notes, (), KINDS[options.modality])
    finally:
        for part in outcome.parts:
            if part.failures:
                list_failures(_failed_list(options, part), records, part.failures)
    _tidy(options, plan, outcome)
    return RunSummary(
        cache=shown(options.cache_dir),
        recipes=tuple(_summary(options, plan, *each) for each in zip(outcome.parts, taken, strict=True)),
        records=len(records.records),
        distinct=len(plan.distinct),
        residues=plan.residues,
        already=len(plan.distinct) - outcome.stored - outcome.failed - copied,
        embedded=outcome.stored,
        failed=outcome.failed,
        skipped=len(records.skipped),
        cut=cut.sequences,
        cut_residues=cut.rows,
        compute=plan.recipe.compute,
        long=plan.recipe.long,
        residues_embedded=outcome.residues,
        seconds=round(time.perf_counter() - begun, 3),
        shard_index=None if options.shard is None else options.shard.number,
        num_shards=None if options.shard is None else options.shard.total,
        copied=copied,
    )


@contextmanager
def _nothing_lost(options: RunOptions, plan: Plan, what: str) -> Iterator[None]:
    """Where nothing is to be embedded, a cache that cannot be written is no error: what is asked for is all there."""
    try:
        yield
    except OSError as error:
        if plan.wanted or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        note(f"note: {options.cache_dir}: cannot be written, {what}")


def _tidy(options: RunOptions, plan: Plan, outcome: Outcome) -> None:
    """Remove lists of failures that are made good, and have on disk what other writers put beside what is done."""
    for part in outcome.parts:
        if not part.failures and _failed_list(options, part).exists():
            with _nothing_lost(options, plan, "the list of an earlier run's failures stays"):
                discard(_failed_list(options, part))  # a run that was cut off leaves it
        with _nothing_lost(options, plan, "it is taken as it is"):
            sync_what_others_wrote(options.cache_dir, part.target.recipe)


def _summary(options: RunOptions, plan: Plan, part: Part, copied: int) -> RecipeSummary:
    return RecipeSummary(
        recipe=part.target.recipe.folder_name,
        layer=part.target.recipe.layer,
        already=len(plan.distinct) - part.stored - len(part.failures) - copied,
        embedded=part.stored,
        failed=len(part.failures),
        failed_list=str(_failed_list(options, part)) if part.failures else None,
        copied=copied,
    )


def _failed_list(options: RunOptions, part: Part) -> Path:
    """Each shard has a list of its own: another shard's run neither replaces nor removes it."""
    shard = options.shard
    name = "failed.tsv" if shard is None else f"failed.{shard.number}-of-{shard.total}.tsv"
    return part.target.recipe.folder(options.cache_dir) / name


def _publish_ids(options: RunOptions, records: Records) -> None:
    """Add the ids to the cache's table; of a dataset elsewhere, which has a table of its own, those that do not clash.

    Raises:
        Conflict: an id stands for another sequence in the cache.
    """
    home = options.input.parent
    try:
        publish_table(options.cache_dir, options.modality, records.records)
    except Conflict as clash:
        if not (home / "dataset.toml").exists() or home.resolve() == options.cache_dir.resolve():
            raise
        known = read_table(options.cache_dir, options.modality)
        apart = [record for record in records.records if record.id not in known or known[record.id].key == record.key]
        publish_table(options.cache_dir, options.modality, apart)
        note(
            f"note: {options.cache_dir}: {len(clash.lines)} ids stand for other sequences there; rows are kept by "
            f"sequence, and {home} keeps its own ids"
        )


def _look_for_space(options: RunOptions, plan: Plan, records: int) -> None:
    """Stop before anything is written where the disk cannot hold the rows; say it where compression may help."""
    try:
        require_space(existing_folder(store_folder(options.cache_dir)), plan.bytes(options.segment_bytes, records))
    except OSError as error:
        if any(target.layout.compressor is None for target in plan.wanted):
            raise
        note(f"note: {error.filename}: {str(error.strerror).partition(',')[0]}, before compression")


def _load(options: RunOptions, info: EncoderInfo, plan: Plan) -> Encoder:
    recipes = tuple(target.recipe for target in plan.wanted)
    return info.load(Loading(recipes, options.weights, options.device, options.batch_tokens))
