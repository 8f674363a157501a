"""What a run leaves behind once its folds are scored: predictions, history, metrics and plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crossllm.cache.console.progress import replicate_progress
from crossllm.model.tokens import tokens_name
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.evaluation.metrics import (
    REPLICATES,
    Partners,
    Scored,
    as_json,
    pooled,
    summarise,
    why_undefined,
)
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.reporting.certainty import calibrated, certainty, columns
from crossllm.pipeline.reporting.plots import draw_calibration, draw_losses, draw_result
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.registry import SYSTEMS
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.inputs import Inputs, parameter_counts
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.run_folder import RunFolder

EMPTY = "(empty)"
"""A group of `--by` whose pairs have nothing in the column."""


def write_results(
    folder: RunFolder,
    inputs: Inputs,
    config: TrainConfig,
    by: str | None,
    parts: Sequence[Parts],
    results: Sequence[FoldResult],
    scored: dict[str, list[Scored]],
    leaks: dict[str, Any],
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Write all of it, `metrics.json` last; its contents.

    Args:
        folder: the run's.
        inputs: what it was trained on.
        config: the run's, `auto` resolved.
        by: column of the pairs table whose values are scored one by one as well.
        parts: of each fold.
        results: of each fold.
        scored: `model` and each baseline → the test predictions of each fold.
        leaks: as in `leaks.json`.
        quiet: no bar while the intervals are computed.
    """
    dataset = inputs.dataset
    for name, found in scored.items():
        file = "predictions.tsv" if name == "model" else f"predictions.{name}.tsv"
        further = columns(config, results) if name == "model" else {}
        header = ("a_id", "b_id", "label", "fold", "score", "predicted", *further)
        folder.write_table(file, header, _predictions(inputs, parts, found, list(further.values())))
    history = [(inputs.folds.names[n], *epoch) for n, result in enumerate(results) for epoch in result.history]
    if history:
        folder.write_table("history.csv", ("fold", *Epoch._fields), history, ",")
        draw_losses(folder, inputs.folds.names, results, optimistic=config.protocol == "paper")
    order = np.concatenate([part.test for part in parts])
    groups = None if by is None else np.array([value or EMPTY for value in dataset.extra[by]])[order]
    partners = [_partners(dataset, part) for part in parts]
    tables = 1 if groups is None else 1 + len(set(groups.tolist()))
    with replicate_progress(tables * len(scored) * REPLICATES, "intervals", quiet) as update:
        metrics = _metrics(inputs, config, partners, scored, update) | certainty(config, results, scored["model"])
        metrics["leaks"] = {name: value for name, value in leaks.items() if name != "folds"}
        if by is not None and groups is not None:
            metrics["by"] = _by_group(inputs, config, by, groups, partners, scored, update)
    if probability := calibrated(results):
        draw_calibration(folder, pooled(scored["model"]), np.concatenate(probability), metrics)
    draw_result(folder, dataset.task, scored, metrics, None if by is None or groups is None else (by, groups))
    folder.write("metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    return metrics


def _partners(dataset: Dataset, part: Parts) -> Partners:
    a, b = dataset.numbers()
    return Partners(a[part.test], b[part.test], dataset.one_modality)


def _metrics(
    inputs: Inputs,
    config: TrainConfig,
    partners: Sequence[Partners],
    scored: dict[str, list[Scored]],
    update: Callable[[int], object],
) -> dict[str, Any]:
    """The contents of `metrics.json` but for its groups."""
    task, names = inputs.dataset.task, inputs.folds.names
    found = {
        name: as_json(summarise(task, folds, config.seed, partners, update=update)) for name, folds in scored.items()
    }
    reasons = ((name, why_undefined(task, fold)) for name, fold in zip(names, scored["model"], strict=True))
    return {
        "task": task,
        "split": config.split,
        "blocks": config.blocks if inputs.folds.cut is not None else None,
        "dropped": [inputs.folds.dropped(n) for n in range(len(names))],
        "protocol": config.protocol,
        "optimistic": config.protocol == "paper",
        "folds": len(names),
        "fold_names": names,
        "dataset": inputs.dataset.name,
        "pairs": len(inputs.dataset.labels),
        "seed": config.seed,
        "system": config.system,
        "reads": SYSTEMS[config.system].reads,
        **(_of_our_model(inputs, config) if config.system == OUR_MODEL else {}),
        "encoders": {side: r.recipe.folder_name for side, r in zip("ab", inputs.readers, strict=True)},
        "shared_between_folds": inputs.folds.shared,
        "ids_are_sequences": _ids_are_sequences(inputs.dataset),
        "tested": sum(len(fold.label) for fold in scored["model"]),
        "undefined": {name: why for name, why in reasons if why is not None},
        "model": found.pop("model"),
        "baselines": found,
    }


def _of_our_model(inputs: Inputs, config: TrainConfig) -> dict[str, Any]:
    """Of the contents of `metrics.json` what no other system has."""
    return {
        "tokens": tokens_name(inputs.window),
        "compute": config.compute,
        "scan": config.scan,
        "fusion": config.model.fusion,
        "parameters": parameter_counts(inputs, config),
    }


def _by_group(
    inputs: Inputs,
    config: TrainConfig,
    column: str,
    groups: np.ndarray,
    partners: Sequence[Partners],
    scored: dict[str, list[Scored]],
    update: Callable[[int], object],
) -> dict[str, Any]:
    """Each value's metrics over the test predictions of all folds together: a fold holds too few of a group."""
    found, task, seed = {}, inputs.dataset.task, config.seed
    a, b = (np.concatenate(side) for side in ([p.a for p in partners], [p.b for p in partners]))
    for value in sorted(set(groups.tolist())):
        chosen = groups == value
        drawn = [Partners(a[chosen], b[chosen], inputs.dataset.one_modality)]
        own = {
            name: as_json(summarise(task, [_of_group(pooled(folds), chosen)], seed, drawn, update=update))
            for name, folds in scored.items()
        }
        found[value] = {"pairs": int(chosen.sum()), "model": own.pop("model"), "baselines": own}
    return {"column": column, "groups": found}


def _of_group(all_folds: Scored, chosen: np.ndarray) -> Scored:
    return Scored(*(values[chosen] for values in all_folds))


def _ids_are_sequences(dataset: Dataset) -> bool:
    sides = ((dataset.a_ids, dataset.a_keys), (dataset.b_ids, dataset.b_keys))
    return all(len(set(ids)) == len(set(keys)) for ids, keys in sides)


def _predictions(
    inputs: Inputs, parts: Sequence[Parts], scored: Sequence[Scored], further: Sequence[Sequence[np.ndarray]]
) -> list[tuple[Any, ...]]:
    """A row for each tested pair, in the order of the pairs table; a score with all of its digits.

    `further` has, for each further column, its values in each fold.
    """
    dataset, classes = inputs.dataset, inputs.dataset.task == "classification"
    rows: list[tuple[Any, ...]] = [()] * len(dataset.labels)
    for number, (part, found) in enumerate(zip(parts, scored, strict=True)):
        own = (column[number] for column in further)
        for pair, score, predicted, *more in zip(part.test.tolist(), found.score, found.predicted, *own, strict=True):
            label = dataset.labels[pair]
            rows[pair] = (
                dataset.a_ids[pair],
                dataset.b_ids[pair],
                int(label) if classes else repr(float(label)),
                inputs.folds.names[number],
                _digits(score),
                int(predicted) if classes else _digits(predicted),
                *(value if isinstance(value, str) else _digits(value) for value in more),
            )
    return [row for row in rows if row]


def _digits(value: np.floating[Any]) -> str:
    """As few digits as give the same number again, in its own type."""
    return str(value) if isinstance(value, np.floating) else repr(float(value))
