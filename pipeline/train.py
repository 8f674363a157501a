"""`train`: a cache folder → folds → one evaluated run.  No encoder is ever loaded here."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from cache.console import note
from pipeline.baselines import id_only
from pipeline.batches import PairBatches
from pipeline.config import TrainConfig
from pipeline.dataset import Dataset
from pipeline.fold import Epoch, FoldResult, fit_fold, fold_seed
from pipeline.inputs import Inputs, TrainOptions, open_inputs
from pipeline.metrics import Scored, Summary, summarise
from pipeline.runfolder import RunFolder
from pipeline.splits import Folds, Parts, cut_parts

BASELINES: dict[str, Callable[[Dataset, Parts], Scored]] = {
    "id_only": lambda dataset, parts: id_only(dataset, parts, by_sequence=False),
    "id_only_sequence": lambda dataset, parts: id_only(dataset, parts, by_sequence=True),
}
"""Name in `metrics.json` → the baseline, fitted and scored on each fold beside the model."""


class Run(NamedTuple):
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]
    """As in `metrics.json`."""


def train(options: TrainOptions) -> Run:
    """Fit and score every fold, the baselines beside the model; everything is kept in the run folder.

    Raises:
        InputError: no dataset, no embeddings for a pair, or a split that cannot be cut.
        Conflict: the run folder holds another run.
    """
    inputs = open_inputs(options)
    dataset, config = inputs.dataset, options.config
    count = len(inputs.folds.names)
    parts = [cut_parts(dataset, inputs.folds, n, config.validation, config.seed) for n in range(count)]
    folder = RunFolder(
        options.out or options.cache_dir / "runs" / dataset.name, _resolved(options, inputs), resume=options.resume
    )
    if (done := folder.finished()) is not None:
        note(f"{folder.path}: finished before; showing its result")
        return Run(folder.path, done)
    _write_table(
        folder,
        "splits.tsv",
        ("a_id", "b_id", "fold"),
        (
            (a, b, inputs.folds.names[f])
            for a, b, f in zip(dataset.a_ids, dataset.b_ids, inputs.folds.of_pair, strict=True)
        ),
    )
    results = _fit_folds(options, inputs, parts, folder)
    scored = {"model": [_scored(dataset, part, result) for part, result in zip(parts, results, strict=True)]}
    for name, baseline in BASELINES.items():
        scored[name] = [baseline(dataset, part) for part in parts]
    for name, found in scored.items():
        _write_predictions(folder, name, dataset, inputs.folds, parts, found)
    _write_table(
        folder,
        "history.csv",
        ("fold", *Epoch._fields),
        ((inputs.folds.names[n], *epoch) for n, result in enumerate(results) for epoch in result.history),
        ",",
    )
    metrics = _metrics(inputs, config, scored)
    folder.write("metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    return Run(folder.path, metrics)


def _resolved(options: TrainOptions, inputs: Inputs) -> dict[str, Any]:
    """What goes into `config.toml`: all that changes a number, `auto` resolved."""
    config = dataclasses.replace(options.config, tokens="residue" if inputs.window == 1 else f"window:{inputs.window}")
    data = {
        "digest": inputs.dataset.digest,
        "pairs": len(inputs.dataset.labels),
        "split_digest": inputs.folds.digest(inputs.dataset),
    }
    recipes = {side: reader.recipe.digest for side, reader in zip("ab", inputs.readers, strict=True)}
    return {"dataset": data, "recipe": recipes, "device": {"name": options.device}, **config.to_tables()}


def _fit_folds(options: TrainOptions, inputs: Inputs, parts: list[Parts], folder: RunFolder) -> list[FoldResult]:
    reader_a, reader_b = inputs.readers
    dataset, config = inputs.dataset, options.config
    batches = PairBatches(inputs.dataset, inputs.readers, inputs.window)
    results = []
    bar = tqdm(total=len(parts) * config.epochs, unit="epoch", disable=True if options.quiet else None)
    for number, part in enumerate(parts):
        result = folder.load_fold(number, len(part.test))
        if result is None:

            def show(epoch: Epoch, number: int = number) -> None:
                bar.update()
                bar.set_description(f"fold {number + 1}/{len(parts)} validation loss {epoch.validation_loss:.4f}")

            result = fit_fold(
                batches,
                dataset.labels,
                part,
                (reader_a.recipe.dim, reader_b.recipe.dim),
                config,
                fold_seed(config.seed, number),
                torch.device(options.device),
                show,
            )
            folder.save_fold(number, result)
        bar.update((number + 1) * config.epochs - bar.n)  # early stopping leaves epochs out
        results.append(result)
    bar.close()
    return results


def _scored(dataset: Dataset, parts: Parts, result: FoldResult) -> Scored:
    return Scored(dataset.labels[parts.test].astype(int), result.score, (result.score >= result.threshold).astype(int))


def _metrics(inputs: Inputs, config: TrainConfig, scored: dict[str, list[Scored]]) -> dict[str, Any]:
    """The contents of `metrics.json`."""
    found = {name: _as_json(summarise(folds, config.seed)) for name, folds in scored.items()}
    return {
        "task": inputs.dataset.task,
        "split": config.split,
        "folds": len(inputs.folds.names),
        "dataset": inputs.dataset.name,
        "pairs": len(inputs.dataset.labels),
        "seed": config.seed,
        "tokens": f"window:{inputs.window}" if inputs.window > 1 else "residue",
        "encoders": {side: r.recipe.folder_name for side, r in zip("ab", inputs.readers, strict=True)},
        "shared_between_folds": inputs.folds.shared,
        "ids_are_sequences": _ids_are_sequences(inputs.dataset),
        "model": found.pop("model"),
        "baselines": found,
    }


def _ids_are_sequences(dataset: Dataset) -> bool:
    sides = ((dataset.a_ids, dataset.a_keys), (dataset.b_ids, dataset.b_keys))
    return all(len(set(ids)) == len(set(keys)) for ids, keys in sides)


def _as_json(summaries: dict[str, Summary]) -> dict[str, Any]:
    """NaN (a metric that a one-class fold leaves undefined) becomes null: JSON has no NaN."""

    def number(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        name: {"mean": number(s.mean), "std": number(s.std), "ci95": [number(v) for v in s.ci95]}
        for name, s in summaries.items()
    }


def _write_predictions(
    folder: RunFolder, name: str, dataset: Dataset, folds: Folds, parts: Sequence[Parts], scored: Sequence[Scored]
) -> None:
    rows = []
    for number, (part, found) in enumerate(zip(parts, scored, strict=True)):
        for pair, score, predicted in zip(part.test.tolist(), found.score, found.predicted, strict=True):
            rows.append(
                (
                    pair,
                    (
                        dataset.a_ids[pair],
                        dataset.b_ids[pair],
                        int(dataset.labels[pair]),
                        folds.names[number],
                        f"{score:.9g}",
                        int(predicted),
                    ),
                )
            )
    file = "predictions.tsv" if name == "model" else f"predictions.{name}.tsv"
    _write_table(
        folder, file, ("a_id", "b_id", "label", "fold", "score", "predicted"), (row for _, row in sorted(rows))
    )


def _write_table(folder: RunFolder, name: str, header: Sequence[str], rows: Any, delimiter: str = "\t") -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    folder.write(name, text.getvalue())
