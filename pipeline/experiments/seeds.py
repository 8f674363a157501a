"""`train --seeds K`: the whole cross-validation once for each of K seeds, and what they have in common."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from crossllm.cache.console.messages import note
from crossllm.cache.errors import Conflict, InputError
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.data.dataset import default_run
from crossllm.pipeline.evaluation.table import NAMES, SHOWN, model_name
from crossllm.pipeline.reporting.forest import Estimate, Panel, forest_bytes
from crossllm.pipeline.train import FitAhead, Run, train
from crossllm.pipeline.training.config import held_config, held_recipes, resolve
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.training.result_folder import differences, held_tables, refuse_foreign, take
from crossllm.pipeline.training.seed_folders import MOST_SEEDS, held_seeds, seed_folder

_MAX_TOML = 1 << 20
_MAX_JSON = 256 << 20
_LARGEST_SEED = 2**32 - 1
_OF_ONE_RUN = ("model", "baselines", "by", "seed", "undefined")
"""Parts of a run's `metrics.json` that a summary has in its own form, or leaves with the seed."""


def train_seeds(options: TrainOptions, count: int, ahead: FitAhead | None = None) -> Run:
    """Train with the seeds `seed` … `seed + count − 1`, each a complete run in `OUT/seed-S`; summary in `OUT`.

    A folder that holds some of them is gone on with (`resume`), also by more seeds than it was begun with; never by
    fewer, because its summary would then hide runs that are there.  `ahead` is for each of them as in `train`.

    Raises:
        InputError: a seed out of range, or what `train` raises.
        Conflict: the folder holds another run, or more seeds.
    """
    seeds = range(options.config.seed, options.config.seed + count)
    if count > MOST_SEEDS or seeds[-1] > _LARGEST_SEED:
        raise InputError(
            f"--seeds {count}: at most {MOST_SEEDS} seeds, none above {_LARGEST_SEED}; the first is {seeds[0]}"
        )
    where = options.out or default_run(options.cache_dir)
    with closing(_opened(where, options, seeds)):
        runs = []
        for number, seed in enumerate(seeds, 1):
            note(f"note: seed {seed}, {number} of {count}")
            runs.append(train(_of_seed(options, where, seeds[0], seed), ahead).metrics)
        metrics = summarise_seeds(runs, seeds)
        for kind in ("png", "svg"):
            fsio.replace(where / f"seeds.{kind}", _plot(metrics, kind))
        fsio.replace(where / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False).encode())
        return Run(where, metrics)


def summarise_seeds(runs: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """`metrics.json` of several seeds, from those of each.

    For the model and every baseline, metric → `mean` over seeds of the mean over folds, `std_over_seeds` (sample
    deviation of those means; null for one seed), `std_over_folds` (mean of the deviations over folds) and `per_seed`.
    What is undefined in a seed is left out of all of them.  Everything else is there if it is the same in all runs.
    """
    first = runs[0]
    shared = {
        name: value
        for name, value in first.items()
        if name not in _OF_ONE_RUN and all(name in run and run[name] == value for run in runs)
    }
    names = list(dict.fromkeys(name for run in runs for name in run["baselines"]))
    undefined = {
        f"seed-{seed}/{fold}": why
        for seed, run in zip(seeds, runs, strict=True)
        for fold, why in run.get("undefined", {}).items()
    }
    return {
        **shared,
        "seeds": list(seeds),
        "undefined": undefined,
        "model": _over_seeds([run["model"] for run in runs]),
        "baselines": {name: _over_seeds([run["baselines"].get(name) for run in runs]) for name in names},
    }


def _over_seeds(found: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """One row of all metrics; None: a seed that has it not."""
    names = next(list(metrics) for metrics in found if metrics is not None)
    return {name: _one_metric([None if metrics is None else metrics[name] for metrics in found]) for name in names}


def _one_metric(of_seeds: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    means = [None if found is None else found["mean"] for found in of_seeds]
    known = np.array([mean for mean in means if mean is not None])
    spreads = [found["std"] for found in of_seeds if found is not None and found["std"] is not None]
    return {
        "mean": float(known.mean()) if len(known) else None,
        "std_over_seeds": float(known.std(ddof=1)) if len(known) > 1 else None,
        "std_over_folds": float(np.mean(spreads)) if spreads else None,
        "per_seed": means,
    }


def _of_seed(options: TrainOptions, where: Path, first: int, seed: int) -> TrainOptions:
    """What one seed is trained with: what `auto` chose, recipes and unnamed baselines are those of the first."""
    config, recipes, baselines = options.config, dict[str, str](), options.baselines
    if (held := held_config(seed_folder(where, first))) is not None:
        begun, recipes = resolve(held), held_recipes(held)
        config = dataclasses.replace(config, tokens=begun.tokens, compute=begun.compute)
    if baselines is None and (done := seed_folder(where, first) / "metrics.json").exists():
        baselines = ",".join(parse_json(read_bytes(done, _MAX_JSON), done)["baselines"]) or "none"
    return dataclasses.replace(
        options,
        config=dataclasses.replace(config, seed=seed),
        recipe_a=options.recipe_a or recipes.get("a"),
        recipe_b=options.recipe_b or recipes.get("b"),
        baselines=baselines,
        out=seed_folder(where, seed),
        resume=True,
    )


def _opened(where: Path, options: TrainOptions, seeds: range) -> fsio.Lock:
    """The folder made or gone on with, locked; `config.toml` names at least these seeds then.

    Raises:
        Conflict: it holds another run, or somebody is at work in it.
    """
    path = where / "config.toml"
    held = held_seeds(where)
    if path.exists():
        _check_same(where, options, held, seeds)
    else:
        refuse_foreign(where, "run")
    lock = take(where, "run")
    if held != seeds:
        body = {"seeds": {"first": seeds[0], "count": len(seeds)}, **options.config.to_tables()}
        fsio.replace(path, tomli_w.dumps(body).encode())
        if held is not None:
            note(f"note: {where}: {len(held)} seeds so far, {len(seeds)} from here on")
    return lock


def _check_same(where: Path, options: TrainOptions, held: range | None, seeds: range) -> None:
    if not options.resume:
        raise Conflict(f"{where}: already holds a run; continue it with --resume, or name another by --out")
    if held is None:
        raise Conflict(f"{where}: holds a run of one seed; --seeds {len(seeds)} takes another folder, by --out")
    if len(held) > len(seeds):
        raise Conflict(
            f"{where}: holds {len(held)} seeds, --seeds {len(seeds)} are fewer; leave it out, or name another by --out"
        )
    begun = held_tables(where / "config.toml")
    del begun["seeds"]
    if different := list(differences(begun, options.config.to_tables())):
        raise Conflict(f"{where}: this run differs in {'; '.join(different)}; name another folder by --out")


def _plot(metrics: dict[str, Any], kind: str) -> bytes:
    """`seeds.png`: each seed a dot, their mean, and the deviation over seeds; model and baselines, two metrics."""
    rows = {model_name(metrics): metrics["model"], **metrics["baselines"]}
    shown = SHOWN[metrics["task"]]
    panels = [
        Panel(
            f"{NAMES.get(metric, metric)}, dots: {len(metrics['seeds'])} seeds\nbar: deviation over seeds",
            [_estimate(found[metric]) for found in rows.values()],
        )
        for metric in (shown[0], shown[3] if metrics["task"] == "classification" else shown[1])
    ]
    return forest_bytes(list(rows), panels, kind, "seeds")


def _estimate(found: dict[str, Any]) -> Estimate:
    mean, spread = found["mean"], found["std_over_seeds"] or 0.0
    points = tuple(value for value in found["per_seed"] if value is not None)
    return Estimate(mean, (mean - spread, mean + spread) if mean is not None else None, points)
