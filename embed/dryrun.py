"""`embed run --dry-run`: what a run would do, and in what time and space; nothing is written."""

from __future__ import annotations

import dataclasses
import math
import shutil
from typing import NamedTuple

from cache.console import note, say_notes
from cache.recipe import Recipe, held_like
from cache.records import UNITS, read_records
from cache.writer import refuse_compressed_h5
from embed.encoder import EncoderInfo
from embed.encoders import DEFAULT_ENCODER, ENCODERS, find_encoder
from embed.estimate import estimate, in_words, pieces
from embed.plan import RunOptions, asked_layout, beyond_limit, existing_folder, make_plan, refuses_long, settle_recipe
from embed.published import weights_at_hand


class DryRun(NamedTuple):
    """What `embed run` would do."""

    cache: str
    encoder: str
    recipe: str | None
    """Folder name of the recipe; None where it cannot be known without the weights."""
    weights_at_hand: bool
    """Or none are needed."""
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
    """That encoding takes, measured on this machine; None where it cannot be told."""
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
    pending, lengths = plan.pending, plan.lengths
    timed = estimate(options, info, recipe, pending)
    tokens = sum(length * count for length, count in pieces(lengths, recipe.long).items())
    return DryRun(
        cache=str(options.cache_dir),
        encoder=info.name,
        recipe=recipe.folder_name if known else None,
        weights_at_hand=at_hand,
        records=len(records.records),
        distinct=len(plan.distinct),
        residues=plan.residues,
        already=len(plan.distinct) - len(pending) if known else None,
        pending=len(pending),
        pending_residues=int(lengths.sum()),
        longest=int(lengths.max(initial=0)),
        limit=info.limit,
        beyond_limit=len(beyond_limit(info, lengths)),
        long="error" if refuses_long(options, info, recipe) else recipe.long,
        batches=math.ceil(tokens / options.batch_tokens),
        bytes=plan.bytes(recipe, options.segment_bytes, len(records.records)) if len(pending) else 0,
        free_bytes=shutil.disk_usage(existing_folder(options.cache_dir)).free,
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
    unit, kind = UNITS[modality], "molecules" if modality == "molecule" else "sequences"
    there = "what is there already is not known without the weights" if found.already is None else (
        f"{found.already:,} already there"
    )  # fmt: skip
    lines = [
        f"records     {found.records:,}, {found.distinct:,} distinct {kind}, {found.residues:,} {unit}; {there}",
        f"to embed    {found.pending:,} {kind}, {found.pending_residues:,} {unit}, the longest {found.longest:,}; "
        f"about {found.batches:,} batches",
        f"encoder     {found.encoder}, {found.recipe or 'a recipe that its weights decide'} → {found.cache}",
        f"disk        about {_size(found.bytes)} to write, {_size(found.free_bytes)} free",
        f"time        {_time(found)}",
    ]
    if found.beyond_limit:
        fate = "they stop the run; name --long" if found.long == "error" else f"long = {found.long}"
        lines.insert(2, f"too long    {found.beyond_limit:,} beyond the encoder's {found.limit:,}: {fate}")
    if not found.weights_at_hand:
        lines.append(f"weights     not at hand: `embed pull {found.encoder}` or `--weights PATH` is needed to run")
    return "\n".join(lines)


def warn(found: DryRun) -> None:
    """Say on standard error what would stop the run."""
    if found.bytes > found.free_bytes:
        note(f"note: {found.cache}: {found.bytes} bytes are needed and {found.free_bytes} are free")


def _time(found: DryRun) -> str:
    if found.seconds is None:
        return f"not estimated: {found.not_estimated}"
    return "none, nothing is missing" if not found.pending else f"about {in_words(found.seconds)} on {found.device}"


def _size(count: int) -> str:
    """Bytes in the largest binary unit that leaves a number of 1 or more."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.1f} {units[0]}" if units[0] != "B" else f"{count} B"
