"""Which recipes a run writes, one for each layer asked for, settled before weights are loaded.

A run follows what the cache holds of the same encoder, weights and layer.  Of several layers all must be made by one
pass of the model: `PASS` names what they have in common, the rest is each one's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import note
from crossllm.cache.errors import Conflict, InputError, printable
from crossllm.cache.records.modality import UNITS
from crossllm.cache.store.recipe import Recipe, refuse_other, similar_recipes
from crossllm.embed.encoder import EncoderInfo
from crossllm.embed.run.estimate import design_of
from crossllm.embed.run.plan import Plan, RunOptions
from crossllm.embed.weights.checkpoint import weights_digest
from crossllm.embed.weights.model_size import UNIREP_SIZES

if TYPE_CHECKING:
    from crossllm.embed.engine.mlstm import Stack
    from crossllm.embed.engine.transformer import Design

PASS = ("compute", "long", "options")
"""Fields of a recipe that change what the model computes, and that a cache may hold otherwise of each layer."""


def resolve_recipes(options: RunOptions, info: EncoderInfo, weights: str | None = None) -> tuple[Recipe, ...]:
    """The recipes to write: the cache's own of this encoder, weights and layer where it holds one, else the encoder's.

    A layer that the cache does not hold is computed as those are that it holds of the layers asked for.

    Args:
        options: what was asked for.
        info: the encoder.
        weights: digest to take for that of the weights where none are named.

    Raises:
        InputError: the weights cannot be read, or the encoder has no such option or layer, or it is named twice.
        Conflict: the cache's differs in a field, which is named, or one pass cannot make all of the layers.
    """
    if twice := next((n for n in options.layers if options.layers.count(n) > 1), None):
        raise InputError(f"--layer {_listed(options.layers)}: names layer {twice} twice; name it once")
    digest = weights if options.weights is None else weights_digest(options.weights, options.quiet)
    asked = [info.recipe(digest, layer) for layer in options.layers or (None,)]
    held = {one.layer: similar_recipes(options.cache_dir, one, "weights", "layer") for one in asked}
    found: dict[str | None, Recipe] = {}
    for one in sorted(asked, key=lambda one: not held[one.layer]):  # those held first: the others follow them
        found[one.layer] = _resolved(options, info, one, held[one.layer], [*found.values()][:1])
    _refuse_several_passes(options, info, [found[one.layer] for one in asked if held[one.layer]])
    return tuple(found[one.layer] for one in asked)


def _resolved(
    options: RunOptions, info: EncoderInfo, asked: Recipe, held: list[Recipe], beside: Sequence[Recipe]
) -> Recipe:
    """One layer's recipe; `held` is what the cache holds of the layer, `beside` the recipe of another layer, if any."""
    same = held if options.new_recipe else _of_policy(options, info, held)
    own = same[0] if len(same) == 1 else asked
    fastest = partial(_fastest, asked, options.device)
    base = own if same or not beside else beside[0]
    long = base.long if base.long in info.policies() else asked.long
    if options.new_recipe:
        compute = info.compute(options.compute or base.compute, (), options.device, fastest)
    else:
        compute = info.compute(options.compute, same or beside, options.device, fastest)
    asked = dataclasses.replace(
        asked,
        dtype=options.dtype or own.dtype,
        compute=compute,
        long=long if options.long is None else info.policy(options.long),
        options=info.resolved_options(options.options, base.options),
    )
    if not options.new_recipe:
        # What flags say; the rest is the encoder's own, or RDKit's.
        by_flags = (
            dataclasses.replace(asked, dtype=own.dtype, compute=own.compute, long=own.long, options=own.options) in same
        )
        fix = "start another recipe with --new-recipe"
        if by_flags and options.long not in ("window", "truncate"):
            fix = f"leave the flag out to follow it, or {fix}"
        refuse_other(options.cache_dir, asked, same, "run", fix)
    return asked


def _fastest(recipe: Recipe, device: str) -> str:
    """The type in which the products of a recipe's model are faster on the device, measured, and said."""
    prepare_machine()
    if recipe.encoder in UNIREP_SIZES:
        from crossllm.embed.encoders.unirep import stack_of

        return _measured(stack_of(recipe.encoder), recipe.encoder, device)
    return _measured(design_of(recipe)[0], recipe.encoder, device)


@cache
def _measured(design: Design | Stack, encoder: str, device: str) -> str:
    """Once a process: all layers are made by one pass, and two measurements may differ."""
    from crossllm.embed.engine.choosing import choose_compute

    found = choose_compute(design, device)
    note(f"note: --compute auto: {found.compute} for {encoder}: {found.why}")
    return found.compute


def _of_policy(options: RunOptions, info: EncoderInfo, held: list[Recipe]) -> list[Recipe]:
    """Of several recipes those of the policy that `--long` names; without the flag they must not differ in it."""
    policies = {recipe.long: recipe.folder_name for recipe in held}
    if len(policies) < 2:
        return held
    if options.long is None:
        names = " and ".join(f"{folder} ({long})" for long, folder in sorted(policies.items()))
        flags = " or ".join("error" if long == "whole" else long.partition(":")[0] for long in sorted(policies))
        raise Conflict(f"--long: the cache holds {names}; say which by --long {flags}")
    return [recipe for recipe in held if recipe.long == info.policy(options.long)] or held


def _refuse_several_passes(options: RunOptions, info: EncoderInfo, recipes: Sequence[Recipe]) -> None:
    """Raise `Conflict` where the cache holds these layers as no single pass of the model makes them."""
    for field in PASS:
        values = {recipe.layer or str(info.layers): getattr(recipe, field) for recipe in recipes}
        if any(value != getattr(recipes[0], field) for value in values.values()):
            differ = ", ".join(f"layer {layer} has {_said(value)}" for layer, value in values.items())
            raise Conflict(
                f"--layer {_listed(options.layers)}: these recipes of {options.cache_dir} differ in {field}, and one "
                f"pass cannot make them: {differ}; give those that agree a run of their own, or start others with "
                f"--new-recipe --{field.removesuffix('s')}"
            )


def _said(value: object) -> str:
    """A field's value as the flag has it."""
    if isinstance(value, dict):
        return " ".join(f"{key}={chosen}" for key, chosen in value.items()) or "the defaults"
    return str(value)


def _listed(layers: Sequence[int]) -> str:
    """As `--layer` takes them."""
    return ",".join(map(str, layers))


def beyond_limit(info: EncoderInfo, lengths: np.ndarray) -> np.ndarray:
    """Places of those of these lengths that are beyond the encoder's limit, (m,)."""
    return np.flatnonzero(lengths > info.limit) if info.limit is not None else np.empty(0, np.int64)


def refuse_too_long(options: RunOptions, info: EncoderInfo, plan: Plan) -> None:
    """Raise `InputError`, one line a record, where the encoder does not take a pending sequence whole."""
    if not refuses_long(options, info, plan.recipe):
        return
    too_long = plan.pending.take(beyond_limit(info, plan.lengths))
    if not too_long:
        return
    ways = "embed it in overlapping windows with --long window"
    ways += ", or whole with --long whole" * info.rotary
    ways += f", or its first {info.limit} alone with --long truncate"
    held = any(similar_recipes(options.cache_dir, target.recipe, "weights", "layer") for target in plan.targets)
    if held and not options.new_recipe:
        ways += "; windows and truncate are other recipes than this cache's, and need --new-recipe too"
    takes = f"{info.name} takes {info.limit}"
    raise InputError(
        f"{options.input}: {record.length} {UNITS[info.modality]}, {takes} (record {printable(record.id)}); "
        f"{ways if n == 0 else 'see --long'}"
        for n, record in enumerate(too_long)
    )


def refuses_long(options: RunOptions, info: EncoderInfo, recipe: Recipe) -> bool:
    """Whether a sequence beyond the encoder's limit stops the run."""
    return recipe.long == "whole" and info.limit is not None and options.long != "whole"
