"""Where a run's numbers come from, and its model card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from crossllm.licences import licence_of
from crossllm.pipeline.evaluation.table import NAMES, SHOWN
from crossllm.pipeline.page.numbers import count, interval_text, number, share, spread_of
from crossllm.pipeline.page.sources import RunResult
from crossllm.pipeline.page.words import intended_use, limits, partners, what_was_predicted


def provenance(run: RunResult) -> Iterator[tuple[str, str]]:
    """Name and text of each line."""
    seed, metrics, recorded = run.first, run.metrics, run.first.provenance
    data, recipe, how = (_table(seed.config, name) for name in ("dataset", "recipe", "run"))
    yield "folder", str(run.folder)
    again = f"its settings again: train --cache … --config {seed.folder}/config.toml"
    yield "command", f"{recorded.get('command') or 'not recorded'}; {again}"
    yield "dataset", f"{metrics['dataset']}, digest {data.get('digest', '–')}"
    yield "split", f"{metrics['split']}, digest {data.get('split_digest', '–')}"
    for side, kind in zip("ab", partners(metrics), strict=True):
        yield f"recipe of {side.upper()}, {kind}", f"{metrics['encoders'][side]}, digest {recipe.get(side, '–')}"
    yield "seeds", ", ".join(str(one.metrics["seed"]) for one in run.seeds)
    yield "code", f"training code version {how.get('version', '–')}, commit {recorded.get('commit') or 'not recorded'}"
    yield "versions", _versions(recorded)
    threads = count(how["threads"], "thread") if isinstance(how.get("threads"), int) else "threads not recorded"
    if "parameters" in metrics:
        scan = metrics.get("scan", seed.metrics["scan"])
        yield "machine", f"{how.get('device', '–')}, {threads}, compute {metrics['compute']}, scan {scan}"
        parameters = sum(metrics["parameters"].values())
        yield "tokens and model", f"{metrics['tokens']}, {metrics['fusion']}, {parameters:,} parameters"
    else:
        yield "machine", f"{how.get('device', '–')}, {threads}"
        yield "system", f"{metrics['system']}, on {metrics['reads']}"
    loaded = {name for one in run.seeds for name in one.usage.encoders}
    if rows := sum(one.usage.rows_read for one in run.seeds):
        yield "embeddings", f"{rows:,} rows read from the cache, {len(loaded)} encoders loaded while training"


def _versions(recorded: dict[str, Any]) -> str:
    packages = recorded.get("packages")
    if not isinstance(packages, dict) or not packages:
        return "not recorded"
    named = [f"{name} {found}" for name, found in packages.items()]
    return ", ".join([*named, f"Python {recorded.get('python', '–')}", str(recorded.get("system", "–"))])


def model_card(run: RunResult) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Heading and paragraphs of each part (Mitchell et al. 2019, arXiv:1810.03993)."""
    metrics, tested = run.metrics, run.first.tested["model"]
    a, b = partners(metrics)
    models = f"{count(metrics['folds'] * len(run.seeds), 'model')}, one for each fold{' and seed' * run.several}"
    if "parameters" in metrics:
        parameters = sum(metrics["parameters"].values())
        made = f"Frozen encoders, {metrics['fusion']} on their rows; {models}; {parameters:,} trained parameters each."
    else:
        made = f"{metrics['system']} of the literature, rebuilt, on {metrics['reads']}; {models}."
    yield "Model", (made,)
    yield "Intended use", (intended_use(metrics),)
    ids = f"The tested pairs have {tested.ids[0]:,} different ids of {a} and {tested.ids[1]:,} of {b}"
    yield "Training data", (f"{what_was_predicted(metrics)} {ids}; {_labels(metrics['task'], tested.label)}.",)
    found = [(NAMES.get(m, m), spread_of(metrics["model"][m])) for m in SHOWN[metrics["task"]]]
    numbers = "; ".join(f"{name} {number(one.mean)} {interval_text(one)}".strip() for name, one in found)
    yield "Metrics", (f"{numbers}.",)
    yield "Limits", tuple(limits(run))
    yield "Licences", tuple(_licences(metrics))


def _licences(metrics: dict[str, Any]) -> Iterator[str]:
    """Of the weights of each side's encoder, by its name in the recipe."""
    for side, kind in zip("ab", partners(metrics), strict=True):
        for recipe in metrics["encoders"][side].split("+"):  # of each that was joined
            encoder = recipe.rpartition("-")[0]
            licence = licence_of(encoder)
            known = f"licence of the weights: {licence}"
            told = "unknown here; ask where the rows came from" if licence is None else known
            yield f"{kind}: {encoder}, {told}."
    yield "This program: Apache-2.0. The licence of the dataset is not recorded."


def _labels(task: str, label: np.ndarray) -> str:
    if task == "classification":
        return f"{share(float(label.mean()))} of them are positive"
    low, middle, high = np.percentile(label, [0, 50, 100]).tolist()
    return f"affinities from {number(low)} to {number(high)}, median {number(middle)}, in the unit of the table"


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}
