"""Rows of further sequences by a recipe that is settled already: what `crossllm predict` asks for.

`embed run` settles a recipe from flags; here it is given, as a run was trained on it, and nothing of it may differ.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import note
from crossllm.cache.errors import Conflict, InputError, printable
from crossllm.cache.maintenance.compact import require_space
from crossllm.cache.records.modality import KINDS, UNITS
from crossllm.cache.records.record_list import Records
from crossllm.cache.remote.opening import shown
from crossllm.cache.store.recipe import IMPORTED, Recipe
from crossllm.cache.store.recipe_command import command_for
from crossllm.cache.store.store_folder import store_folder
from crossllm.embed.encoder import EncoderInfo, Loading
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.run.plan import Plan, RunOptions, existing_folder, make_plan
from crossllm.embed.run.recipes import beyond_limit
from crossllm.embed.run.storing import Outcome, store
from crossllm.embed.weights.checkpoint import weights_digest
from crossllm.embed.weights.published import local_weights

_NAMED = 5
"""Ids that a message names."""


class Embedded(NamedTuple):
    """What was embedded, in distinct sequences."""

    stored: int
    residues: int
    """Rows of these."""
    failures: dict[bytes, str]
    """Key → why it has no rows."""


def embed_by_recipe(
    cache_dir: Path,
    recipe: Recipe,
    records: Records,
    *,
    source: Path,
    weights: Path | None = None,
    flag: str = "--weights",
    device: str = "cpu",
    quiet: bool = False,
) -> Embedded:
    """Embed what the recipe lacks of these records, and store it in a cache; the table of ids stays as it is.

    Rows are kept by sequence, so ids of other files never clash with those of the cache.

    Args:
        cache_dir: whose embeddings are written.
        recipe: to the letter.
        records: of one modality.
        source: the file that they stand in, for messages.
        weights: file or folder; None: the pulled weights.
        flag: that names other weights, for messages.
        device: where the encoder runs.
        quiet: no bar.

    Raises:
        InputError: the rows were imported, so that no encoder here makes them; weights that are not at hand or have
            another digest; a sequence that the recipe does not take whole.
        Conflict: this version's encoder, or its RDKit, makes other rows.
        OSError: the disk has not the space; nothing was written.
    """
    options = RunOptions(recipe.modality, source, cache_dir, recipe.encoder, device=device, quiet=quiet)
    plan = make_plan(options, (recipe,), records)
    if not plan.wanted:
        return Embedded(0, 0, {})
    info = _encoder(cache_dir, recipe, plan)
    options = dataclasses.replace(options, weights=_weights(recipe, info, weights, flag, quiet))
    _refuse_too_long(cache_dir, info, plan, source)
    if info.source:  # it runs on torch
        prepare_machine()
    require_space(existing_folder(store_folder(cache_dir)), plan.bytes(options.segment_bytes, 0))
    count = len(plan.places)
    where = shown(store_folder(cache_dir))
    note(f"note: embedding {count:,} {KINDS[recipe.modality]} by {recipe.folder_name} → {where}")
    encoder = info.load(Loading((recipe,), options.weights, device, options.batch_tokens))
    outcome = Outcome(plan)
    store(options, encoder, plan, outcome, None)
    return Embedded(outcome.stored, outcome.residues, outcome.parts[0].failures)


def _encoder(cache_dir: Path, recipe: Recipe, plan: Plan) -> EncoderInfo:
    """The encoder that makes a recipe's rows, held to every field of it."""
    missing = _ids(plan)
    if recipe.tokenizer == IMPORTED:
        raise InputError(
            f"{cache_dir}: {recipe.folder_name} was made by `crossllm cache import`, so that nothing here can embed "
            f"the {len(plan.places)} {KINDS[recipe.modality]} that it lacks: {missing}; embed them as the others "
            f"were and run `{command_for(cache_dir, recipe)}`"
        )
    info = ENCODERS.get((recipe.modality, recipe.encoder))
    if info is None:
        raise InputError(
            f"{cache_dir}: no encoder {printable(recipe.encoder)} is known here, and {recipe.folder_name} lacks "
            f"{missing}; use the version that embedded the others"
        )
    layer = None if recipe.layer is None else int(recipe.layer)
    ours = dataclasses.replace(
        info.recipe(recipe.weights, layer),
        dtype=recipe.dtype, compute=recipe.compute, long=recipe.long, options=recipe.options,
    )  # fmt: skip
    if different := ours.differences(recipe):
        raise Conflict(
            f"{cache_dir}: {recipe.folder_name} was made otherwise than this version does: {'; '.join(different)}; "
            "install the version that made it, or embed and train again"
        )
    return info


def _weights(recipe: Recipe, info: EncoderInfo, named: Path | None, flag: str, quiet: bool) -> Path | None:
    """The file whose digest the recipe holds."""
    if not info.source:
        if named is not None:
            raise InputError(f"{flag}: {info.name} has no weights; leave the flag out")
        return None
    path = named or local_weights(info.name)
    wanted = f"SHA-256 {recipe.weights}"
    if path is None:
        raise InputError(
            f"{flag}: {info.name} needs the weights that the run was trained with ({wanted}), and none are at hand; "
            f"name the file by {flag}, or fetch the published ones with `embed pull {info.name}`"
        )
    found = weights_digest(path, quiet)
    if found != recipe.weights:
        raise InputError(
            f"{flag} {path}: has SHA-256 {found}, the run was trained with {recipe.weights}; name that file by {flag}"
        )
    return path


def _refuse_too_long(cache_dir: Path, info: EncoderInfo, plan: Plan, source: Path) -> None:
    """Raise `InputError`, a line a record, for sequences beyond the limit where the recipe takes them whole."""
    if plan.recipe.long != "whole" or info.limit is None:
        return
    too_long = plan.pending.take(beyond_limit(info, plan.lengths))
    ways = "shorten it or leave its pairs out"
    if info.rotary:
        command = command_for(cache_dir, plan.recipe).replace("FILE", shlex.quote(str(source)), 1)
        ways += f"; or, where the run was trained on such, embed it first: `{command} --long whole`"
    if too_long:
        raise InputError(
            f"{source}: {record.length} {UNITS[info.modality]}, {info.name} takes {info.limit} (record "
            f"{printable(record.id)}); {ways}"
            for record in too_long
        )


def _ids(plan: Plan) -> str:
    """The first ids that lack rows."""
    names = [printable(record.id) for record in plan.pending[:_NAMED]]
    more = len(plan.places) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
