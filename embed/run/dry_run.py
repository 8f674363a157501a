"""What a run would do, and in what time and space: `embed run --dry-run`."""

from __future__ import annotations

import dataclasses
import math
import shutil
from typing import NamedTuple

import numpy as np

from crossllm.cache.store.recipe import Recipe, similar_recipes
from crossllm.cache.store.store_folder import store_folder
from crossllm.cache.store.writer import refuse_compressed_h5
from crossllm.embed.encoder import EncoderInfo
from crossllm.embed.encoders.registry import DEFAULT_ENCODER, ENCODERS, find_encoder
from crossllm.embed.run.estimate import Estimate, estimate, pieces, timed_by_shape
from crossllm.embed.run.from_cache import check_source
from crossllm.embed.run.plan import (
    Plan,
    RunOptions,
    Target,
    asked_layout,
    asked_records,
    existing_folder,
    make_plan,
)
from crossllm.embed.run.recipes import beyond_limit, refuses_long, resolve_recipes
from crossllm.embed.weights.published import local_weights


class RecipePlan(NamedTuple):
    """What a run would do in one recipe."""

    recipe: str | None
    """Folder name; None where it cannot be known without the weights."""
    layer: str | None
    """None: the last, or the only one."""
    already: int | None
    """Distinct sequences that are in it; None where the recipe is not known."""


class DryRun(NamedTuple):
    """What `embed run` would do."""

    cache: str
    encoder: str
    recipes: tuple[RecipePlan, ...]
    """One for each layer asked for, in that order."""
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
    """Distinct sequences that all recipes have; None where these are not known."""
    elsewhere: int
    """Distinct sequences whose rows `--from-cache` has."""
    pending: int
    """The others, which are computed once each."""
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
    options = dataclasses.replace(options, weights=options.weights or local_weights(info.name))
    records = asked_records(options)
    recipes, known = _recipes(options, info, at_hand)
    if known:
        check_source(options, recipes)
    plan = make_plan(options, recipes, records)
    lengths, stops = plan.lengths, refuses_long(options, info, plan.recipe)
    beyond = beyond_limit(info, lengths)
    runs = plan.places if not stops else np.delete(plan.places, beyond)
    timed = estimate(options, info, plan.recipe, plan.distinct.records.take(runs))
    if stops and len(beyond) and not len(runs):
        timed = Estimate(None, "all that is to be embedded is too long")
    tokens = sum(length * count for length, count in pieces(lengths, plan.recipe.long).items())
    return DryRun(
        cache=str(options.cache_dir),
        encoder=info.name,
        recipes=tuple(_in_recipe(plan, target, known) for target in plan.targets),
        weights_at_hand=at_hand,
        weights=None if options.weights is None else str(options.weights),
        weights_opened=options.weights is not None and not timed_by_shape(info) and len(runs) > 0,
        records=len(records.records),
        distinct=len(plan.distinct),
        residues=plan.residues,
        already=len(plan.distinct) - len(lengths) - len(plan.elsewhere) if known else None,
        elsewhere=len(plan.elsewhere),
        pending=len(lengths),
        pending_residues=int(lengths.sum()),
        longest=int(lengths.max(initial=0)),
        limit=info.limit,
        beyond_limit=len(beyond),
        long="error" if stops else plan.recipe.long,
        batches=math.ceil(tokens / options.batch_tokens),
        bytes=plan.bytes(options.segment_bytes, len(records.records)),
        free_bytes=free_bytes(options),
        device=options.device,
        seconds=timed.seconds,
        not_estimated=timed.reason,
        skipped=len(records.skipped),
    )


def _encoder(options: RunOptions) -> tuple[EncoderInfo, bool]:
    """The encoder, and whether its weights are at hand: a plan does without them."""
    info = ENCODERS.get((options.modality, options.encoder or DEFAULT_ENCODER[options.modality]))
    if info is not None and info.source and options.weights is None and local_weights(info.name) is None:
        return info, False
    return find_encoder(options.modality, options.encoder, options.weights), True


def _in_recipe(plan: Plan, target: Target, known: bool) -> RecipePlan:
    if not known:
        return RecipePlan(None, target.recipe.layer, None)
    return RecipePlan(target.recipe.folder_name, target.recipe.layer, _held(plan, target))


def _held(plan: Plan, target: Target) -> int:
    return len(plan.distinct) - len(target.places) - len(target.elsewhere)


def _recipes(options: RunOptions, info: EncoderInfo, at_hand: bool) -> tuple[tuple[Recipe, ...], bool]:
    """The recipes of the run, and whether they are known: without weights, by the only ones that the cache holds."""
    if at_hand:
        return resolve_recipes(options, info), True
    asked = [info.recipe(None, layer) for layer in options.layers or (None,)]
    held = {recipe.weights for one in asked for recipe in similar_recipes(options.cache_dir, one, "layer")}
    known = len(held) == 1
    return resolve_recipes(options, info, held.pop() if known else None), known


def free_bytes(options: RunOptions) -> int:
    """On the cache's file system."""
    return shutil.disk_usage(existing_folder(store_folder(options.cache_dir))).free
