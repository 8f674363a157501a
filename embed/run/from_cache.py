"""`embed run --from-cache`: rows of the same recipe that another cache has, taken before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.merge import take
from crossllm.cache.records.record_list import Records
from crossllm.cache.store.recipe import Recipe, refuse_other, similar_recipes
from crossllm.embed.run.plan import Plan, RunOptions, make_plan


def check_source(options: RunOptions, recipes: Sequence[Recipe]) -> None:
    """Look at the cache that rows are to be taken from, before anything is written.

    Raises:
        InputError: it is no cache, or the one that is written.
        Conflict: it has rows of an encoder, weights and layer of this run, but by another recipe; the fields are named.
    """
    source = options.from_cache
    if source is None:
        return
    require_cache(source)
    if options.cache_dir.exists() and source.samefile(options.cache_dir):
        raise InputError(f"--from-cache {source}: is the cache that is written; name another, or leave the flag out")
    for recipe in recipes:
        held = similar_recipes(source, recipe, "weights", "layer")
        refuse_other(source, recipe, held, "run", "give this run the same settings, or leave --from-cache out")
        if not held:
            note(f"note: --from-cache {source}: has no rows of {recipe.folder_name}")


def take_rows(options: RunOptions, plan: Plan, records: Records) -> tuple[Plan, list[int]]:
    """Copy what the other cache has; the plan of what is left to compute, and the sequences taken of each recipe.

    A record that is damaged over there is said, and computed here.

    Raises:
        CacheCorrupt: a commit record or small file of the other cache is damaged; nothing of that recipe was written.
    """
    if options.from_cache is None:
        return plan, [0] * len(plan.targets)
    taken = [_take(options, options.from_cache, plan, n) for n in range(len(plan.targets))]
    recipes = [target.recipe for target in plan.targets]
    return make_plan(dataclasses.replace(options, from_cache=None), recipes, records), taken


def _take(options: RunOptions, source: Path, plan: Plan, number: int) -> int:
    """Take the rows of one recipe."""
    target = plan.targets[number]
    if not len(target.elsewhere):
        return 0
    keys = {digest.tobytes() for digest in plan.distinct.digests[target.elsewhere]}
    done = take(options.cache_dir, source, target.recipe, keys, quiet=options.quiet)
    linked = f", {done.linked} segments linked" if done.linked else ""
    note(f"note: {source}: {done.records:,} records of {target.recipe.folder_name} taken{linked}")
    for line in done.damage:
        note(f"note: {line}; embedded again here")
    return done.records
