"""What a run would do, and in what time and space: `embed run --dry-run`, and the line that a run begins with."""

from __future__ import annotations

import dataclasses
import math
import shutil
from typing import NamedTuple

import numpy as np

from cache.console import note, say_notes, size_in_words
from cache.recipe import Recipe, held_like
from cache.records import KINDS, UNITS, read_records
from cache.writer import refuse_compressed_h5
from embed.encoder import EncoderInfo
from embed.encoders import DEFAULT_ENCODER, ENCODERS, find_encoder
from embed.estimate import Estimate, estimate, in_words, pieces, worth_timing
from embed.plan import (
    Plan,
    RunOptions,
    asked_layout,
    beyond_limit,
    existing_folder,
    make_plan,
    refuses_long,
    settle_recipe,
)
from embed.published import weights_at_hand


class DryRun(NamedTuple):
    """What `embed run` would do."""

    cache: str
    encoder: str
    recipe: str | None
    """Folder name of the recipe; None where it cannot be known without the weights."""
    weights_at_hand: bool
    """Or none are needed."""
    weights: str | None
    """Where they are."""
    weights_opened: bool
    """Whether they were read to measure the time; otherwise they were digested at most."""
    records: int
    distinct: int
    """Distinct sequences of the input."""
    residues: int
    """Of the distinct sequences."""
    already: int | None
    """Distinct sequences that are in the cache; None where the recipe is not known."""
    pending: int
    pending_residues: int
    longest: int
    """Rows of the longest pending sequence."""
    limit: int | None
    """Longest sequence that the encoder takes whole."""
    beyond_limit: int
    """Pending sequences that are longer."""
    long: str
    """What becomes of them: `error`, or what the recipe says."""
    batches: int
    """About: as if every batch were full."""
    bytes: int
    """About what is written, uncompressed."""
    free_bytes: int
    """On the cache's file system."""
    device: str
    seconds: float | None
    """That encoding takes, measured on this machine, without what stops the run; None where it cannot be told."""
    not_estimated: str
    """Why `seconds` is None."""
    skipped: int
    """Bad records left out under `--on-bad skip`."""


def dry_run(options: RunOptions) -> DryRun:
    """Everything that can be said of a run before it begins.

    Raises:
        InputError: bad records, no such encoder, or flags that the encoder does not know.
        Conflict: the cache's recipe of this encoder differs from what was asked for.
    """
    refuse_compressed_h5(*asked_layout(options))
    info, at_hand = _encoder(options)
    options = dataclasses.replace(options, weights=options.weights or weights_at_hand(info.name))
    records = read_records(options.input, options.modality, options.on_bad)
    say_notes(options.input, records.notes, records.skipped, "records")
    recipe, known = _recipe(options, info, at_hand)
    plan = make_plan(options, recipe, records)
    lengths, stops = plan.lengths, refuses_long(options, info, recipe)
    beyond = beyond_limit(info, lengths)
    runs = plan.places if not stops else np.delete(plan.places, beyond)
    timed = estimate(options, info, recipe, plan.distinct.records.take(runs))
    if stops and len(beyond) and not len(runs):
        timed = Estimate(None, "all that is to be embedded is too long")
    tokens = sum(length * count for length, count in pieces(lengths, recipe.long).items())
    return DryRun(
        cache=str(options.cache_dir),
        encoder=info.name,
        recipe=recipe.folder_name if known else None,
        weights_at_hand=at_hand,
        weights=None if options.weights is None else str(options.weights),
        weights_opened=options.weights is not None and not info.layers and len(runs) > 0,
        records=len(records.records),
        distinct=len(plan.distinct),
        residues=plan.residues,
        already=len(plan.distinct) - len(lengths) if known else None,
        pending=len(lengths),
        pending_residues=int(lengths.sum()),
        longest=int(lengths.max(initial=0)),
        limit=info.limit,
        beyond_limit=len(beyond),
        long="error" if stops else recipe.long,
        batches=math.ceil(tokens / options.batch_tokens),
        bytes=plan.bytes(options.segment_bytes, len(records.records)),
        free_bytes=_free(options),
        device=options.device,
        seconds=timed.seconds,
        not_estimated=timed.reason,
        skipped=len(records.skipped),
    )


def _encoder(options: RunOptions) -> tuple[EncoderInfo, bool]:
    """The encoder, and whether its weights are at hand: a plan does without them."""
    info = ENCODERS.get((options.modality, options.encoder or DEFAULT_ENCODER[options.modality]))
    if info is not None and info.source and options.weights is None and weights_at_hand(info.name) is None:
        return info, False
    return find_encoder(options.modality, options.encoder, options.weights), True


def _recipe(options: RunOptions, info: EncoderInfo, at_hand: bool) -> tuple[Recipe, bool]:
    """The recipe of the run, and whether it is known: without weights, by the only one of this encoder in the cache."""
    if at_hand:
        return settle_recipe(options, info), True
    held = {recipe.weights for recipe in held_like(options.cache_dir, info.recipe(None, options.layer), "layer")}
    known = len(held) == 1
    return settle_recipe(options, info, held.pop() if known else None), known


def in_lines(found: DryRun, modality: str) -> str:
    """The plan as people read it."""
    unit, kind = UNITS[modality], KINDS[modality]
    there = "what is there already is not known without the weights" if found.already is None else (
        f"{found.already:,} already there"
    )  # fmt: skip
    lines = [
        f"records     {found.records:,}, {found.distinct:,} distinct {kind}, {found.residues:,} {unit}; {there}",
        f"to embed    {_pending(found, kind, unit)}",
        f"encoder     {found.encoder}, {found.recipe or 'a recipe that its weights decide'} → {found.cache}",
        f"disk        {_disk(found.bytes, found.free_bytes)}",
        f"time        {_time(found)}",
    ]
    if found.beyond_limit:
        fate = "they stop the run; name --long" if found.long == "error" else f"long = {found.long}"
        lines.insert(2, f"too long    {found.beyond_limit:,} beyond the encoder's {found.limit:,}: {fate}")
    if not found.weights_at_hand:
        lines.append(f"weights     not at hand: `embed pull {found.encoder}` or `--weights PATH` is needed to run")
    elif found.weights is not None:
        opened = "opened to measure the time" if found.weights_opened else "digested but not opened"
        lines.append(f"weights     {found.weights}, {opened}")
    return "\n".join(lines)


def warn(found: DryRun) -> None:
    """Say on standard error what would stop the run, and why its time is not known."""
    if found.seconds is None:
        note(f"note: the time is not estimated: {found.not_estimated}")
    if found.bytes > found.free_bytes:
        note(f"note: {found.cache}: {found.bytes} bytes are needed and {found.free_bytes} are free")


def _time(found: DryRun) -> str:
    if found.seconds is None:
        return f"not estimated: {found.not_estimated}"
    if not found.pending:
        return "nothing to embed"
    without = ", without what is too long" if found.long == "error" and found.beyond_limit else ""
    return _about(found.seconds, found.device) + without


def _pending(found: DryRun, kind: str, unit: str) -> str:
    if not found.pending:
        return "nothing"
    batches = "1 batch" if found.batches == 1 else f"about {found.batches:,} batches"
    return f"{found.pending:,} {kind}, {found.pending_residues:,} {unit}, the longest {found.longest:,}; {batches}"


def _about(seconds: float, device: str) -> str:
    return f"{in_words(seconds)} on {device}, if the machine does nothing else"


def _disk(needed: int, free: int) -> str:
    return f"about {size_in_words(needed)} to write, {size_in_words(free)} free"


def _free(options: RunOptions) -> int:
    return shutil.disk_usage(existing_folder(options.cache_dir)).free


def announce(options: RunOptions, info: EncoderInfo, plan: Plan, records: int) -> None:
    """Say on standard error what a run is about to do, before any weights are opened; nothing with `--quiet`.

    The time is measured where there is work for minutes; of less the bar soon tells what is left.
    """
    if options.quiet or not len(plan.places):
        return
    kind, unit = KINDS[options.modality], UNITS[options.modality]
    said = [
        f"note: {len(plan.places):,} of {len(plan.distinct):,} {kind} to embed",
        f"{plan.lengths.sum():,} {unit}",
        _disk(plan.bytes(options.segment_bytes, records), _free(options)),
    ]
    if worth_timing(info, plan.recipe, plan.lengths, options.device):
        seconds, reason = estimate(options, info, plan.recipe, plan.pending)
        said.append(f"time not estimated: {reason}" if seconds is None else _about(seconds, options.device))
    note(", ".join(said))
