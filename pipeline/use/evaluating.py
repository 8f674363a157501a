"""`crossllm evaluate`: a finished run's models on another dataset, beside what they share with its training data.

Shapes: P pairs, S distinct sequences of a side, K folds' models.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from crossllm.cache.console.messages import note, say_notes
from crossllm.cache.console.progress import pair_progress, replicate_progress
from crossllm.cache.errors import InputError, printable
from crossllm.cache.files import fsio
from crossllm.cache.records.modality import OnBad
from crossllm.cache.store.joined_reader import parts_of, recipes_of
from crossllm.cache.store.recipe import Recipe, list_recipes
from crossllm.cache.store.recipe_command import command_for
from crossllm.pipeline.data.dataset import Dataset, load_dataset
from crossllm.pipeline.data.sequences import read_sequences
from crossllm.pipeline.evaluation.calibration import brier
from crossllm.pipeline.evaluation.classification import calibration_error
from crossllm.pipeline.evaluation.metrics import REPLICATES, Partners, Scored, as_json, summarise
from crossllm.pipeline.reporting.leaks import CLASSES, histogram
from crossllm.pipeline.training.result_folder import refuse_foreign
from crossllm.pipeline.use import answers, domain
from crossllm.pipeline.use.rows import RowsOfRun, open_chained
from crossllm.pipeline.use.run_data import RunData, run_data
from crossllm.pipeline.use.scoring import Scorer
from crossllm.pipeline.use.trained_run import TrainedRun, load_run

LEAST_PAIRS = 20
"""Of a class of pairs whose metrics are given by themselves."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What `crossllm evaluate` was asked for."""

    run: Path
    cache_dir: Path
    """The dataset that is predicted."""
    out: Path | None = None
    """Folder to write; None: nothing is written."""
    model: Literal["folds", "final"] = "folds"
    """Of the folds, or the one of all pairs."""
    data: Path | None = None
    """Folder of the run's own dataset; None: the one that the run lies in."""
    device: str = "cpu"
    on_bad: OnBad = "error"
    seed: int = 0
    """Of the bootstrap."""
    quiet: bool = False


class _Inputs(NamedTuple):
    """The other dataset, numbered by distinct sequence."""

    dataset: Dataset
    readers: tuple[RowsOfRun, RowsOfRun]
    keys: tuple[list[bytes], list[bytes]]
    numbers: tuple[np.ndarray, np.ndarray]
    """(P,) place of each pair's sequence among the keys of its side."""


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Score the dataset, and say how well and how fairly; what `metrics.json` has.

    Raises:
        InputError: another task, modality or recipe than the run's, or pairs without rows.
        Conflict: the output folder holds something else.
    """
    if options.out is not None:
        refuse_foreign(options.out, "evaluation")
    run = load_run(options.run, options.model)
    data = run_data(run, options.data)
    inputs = _open(options, run, data)
    scorer = Scorer(run, inputs.readers, inputs.keys, torch.device(options.device))
    with pair_progress(len(inputs.dataset.labels), "predicting", options.quiet) as done:
        raw = scorer.scores(*inputs.numbers, done)
    found = answers.answers(run, raw)
    near = _nearness(options, data, inputs)
    metrics = _metrics(options, run, inputs, raw, found) | {"leaks": _leaks(data, run, inputs, near)}
    kinds = domain.domains(*near, *inputs.numbers)
    metrics["classes"] = _by_class(run, inputs, found, kinds)
    if options.out is not None:
        fsio.make_dirs(options.out)
        fsio.replace(options.out / "predictions.tsv", _predictions(inputs, found, near, kinds))
        fsio.replace(options.out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False).encode())
    return metrics


def _open(options: EvaluateOptions, run: TrainedRun, data: RunData) -> _Inputs:
    """The dataset with rows of the run's recipes."""
    dataset, read = load_dataset(options.cache_dir, options.on_bad)
    say_notes(options.cache_dir / "pairs.tsv", read.notes, read.skipped, "rows")
    if dataset.task != run.task:
        raise InputError(f"{options.cache_dir}: is a {dataset.task}, {run.folder} was trained on a {run.task}")
    sides = dataset.modality_a, dataset.modality_b
    if sides != data.modalities:
        raise InputError(
            f"{options.cache_dir}: its sides are {' and '.join(sides)}, those of {run.folder} are "
            f"{' and '.join(data.modalities)}; import it with the sides that way round"
        )
    for recipe in data.recipes:
        for part in recipes_of(recipe):
            _check_held(options.cache_dir, part, run)
    readers = tuple(open_chained([options.cache_dir], recipe) for recipe in data.recipes)
    dataset = _embedded(options, dataset, readers)
    keys = [list(dict.fromkeys(own)) for own in (dataset.a_keys, dataset.b_keys)]
    places = [{key: n for n, key in enumerate(own)} for own in keys]
    numbers = [
        np.array([place[key] for key in own])
        for place, own in zip(places, (dataset.a_keys, dataset.b_keys), strict=True)
    ]
    return _Inputs(dataset, (readers[0], readers[1]), (keys[0], keys[1]), (numbers[0], numbers[1]))


def _check_held(cache_dir: Path, recipe: Recipe, run: TrainedRun) -> None:
    """Raise `InputError` where the other cache does not hold a recipe of the run."""
    held = list_recipes(cache_dir, recipe.modality)
    if recipe in held:
        return
    names = ", ".join(other.folder_name for other in held) or "none"
    nearest = min(held, key=lambda other: len(recipe.differences(other)), default=None)
    differ = "" if nearest is None else f"; the run's has {'; '.join(recipe.differences(nearest))}"
    raise InputError(
        f"{cache_dir}: {run.folder} was trained on the {recipe.modality} recipe {recipe.folder_name}, here: "
        f"{names}{differ}; run `{command_for(cache_dir, recipe)}`"
    )


def _embedded(options: EvaluateOptions, dataset: Dataset, readers: Sequence[RowsOfRun]) -> Dataset:
    """The dataset without the pairs that lack rows; an error unless these are skipped."""
    absent = [reader.absent(keys) for reader, keys in zip(readers, (dataset.a_keys, dataset.b_keys), strict=True)]
    lacking = absent[0] | absent[1]
    if not lacking.any():
        return dataset
    first = int(np.flatnonzero(lacking)[0])
    side = 0 if absent[0][first] else 1
    if options.on_bad == "error":
        id_ = (dataset.a_ids, dataset.b_ids)[side][first]
        key = (dataset.a_keys, dataset.b_keys)[side][first]
        recipe = next(part.recipe for part in parts_of(readers[side]) if part.absent([key])[0])
        raise InputError(
            f"{options.cache_dir}: {int(lacking.sum())} pairs have no rows in the run's recipes, the first for "
            f"'{printable(id_)}'; run `{command_for(options.cache_dir, recipe)}`, or leave them out with "
            "--on-bad skip"
        )
    if lacking.all():
        raise InputError(f"{options.cache_dir}: no pair has rows on both sides; run `embed run` first")
    note(f"note: {int(lacking.sum())} pairs without an embedding left out (--on-bad skip)")
    return dataset.subset(np.flatnonzero(~lacking).tolist())


def _nearness(options: EvaluateOptions, data: RunData, inputs: _Inputs) -> tuple[domain.Nearness, domain.Nearness]:
    found = []
    for side, keys, modality in zip("ab", inputs.keys, data.modalities, strict=True):

        def texts(places: Sequence[int], keys: list[bytes] = keys, modality: str = modality) -> list[str]:
            held = read_sequences(options.cache_dir, modality)
            return [held[keys[n]] for n in places]

        found.append(domain.nearness(data, side, keys, texts, quiet=options.quiet))
    return found[0], found[1]


def _metrics(
    options: EvaluateOptions, run: TrainedRun, inputs: _Inputs, raw: np.ndarray, found: answers.Answers
) -> dict[str, Any]:
    """All but what concerns the training data."""
    dataset = inputs.dataset
    calls = run.predicted(raw)
    label = dataset.labels if run.task == "regression" else dataset.labels.astype(int)
    alone = [Scored(label, score, call) for score, call in zip(raw, calls, strict=True)]
    together = Scored(label, found.score, found.predicted)
    partners = Partners(*dataset.numbers(), dataset.one_modality)
    with replicate_progress(2 * REPLICATES, "intervals", options.quiet) as update:
        own = as_json(summarise(run.task, [together], options.seed, [partners], update=update))
        each = as_json(summarise(run.task, alone, options.seed, [partners] * len(alone), update=update))
    metrics: dict[str, Any] = {
        "task": run.task,
        "run": str(run.folder),
        "dataset": dataset.name,
        "pairs": len(label),
        "positives": int((label == 1).sum()) if run.task == "classification" else None,
        "models": len(run.folds),
        "model": own,
        "one_model": each,
    }
    if run.task == "regression":
        inside = (found.low <= label) & (label <= found.high)
        return metrics | {"interval": {"asked": run.config.interval, "coverage": float(inside.mean())}}
    error = float(calibration_error(label, found.score, np.ones((1, len(label))))[0])
    return metrics | {"calibration": {"calibration_error": error, "brier": brier(label, found.score)}}


def _leaks(
    data: RunData, run: TrainedRun, inputs: _Inputs, near: tuple[domain.Nearness, domain.Nearness]
) -> dict[str, Any]:
    """Shares of the pairs by what of them stands in the run's training data, and how near the rest comes."""
    a, b = (one.seen[numbers] for one, numbers in zip(near, inputs.numbers, strict=True))
    like_a, like_b = ((one.seen | one.near)[numbers] for one, numbers in zip(near, inputs.numbers, strict=True))
    pairs = zip(inputs.dataset.a_keys, inputs.dataset.b_keys, strict=True)
    return {
        "modalities": list(data.modalities),
        "rules": [rule.identity for rule in data.rules],
        "by_sequence": _shares(a, b),
        "by_relatives": _shares(like_a, like_b),
        "same_sequence_pair": float(np.mean([data.has_pair(pair) for pair in pairs])),
        **{
            f"nearest_{side}": histogram(one.identity[numbers].astype(float))
            for side, one, numbers in zip("ab", near, inputs.numbers, strict=True)
        },
    }


def _shares(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    kind = 1 * ~a + 2 * ~b
    return {name: float((kind == n).mean()) for n, name in enumerate(CLASSES)}


def _by_class(run: TrainedRun, inputs: _Inputs, found: answers.Answers, kinds: np.ndarray) -> dict[str, Any]:
    """Each class of pairs with enough of them: its metrics, without intervals."""
    label = inputs.dataset.labels
    shown = {}
    for kind in sorted(set(kinds.tolist())):
        chosen = np.flatnonzero(kinds == kind)
        shown[kind] = {"pairs": len(chosen)}
        if len(chosen) >= LEAST_PAIRS:
            scored = Scored(label[chosen], found.score[chosen], found.predicted[chosen])
            summary = as_json(summarise(run.task, [scored], 0, replicates=1))
            shown[kind] |= {name: value["mean"] for name, value in summary.items()}
    return shown


def _predictions(
    inputs: _Inputs, found: answers.Answers, near: tuple[domain.Nearness, domain.Nearness], kinds: np.ndarray
) -> bytes:
    """Every pair with its label and the columns that `crossllm predict` adds."""
    text = io.StringIO()
    rows = csv.writer(text, delimiter="\t", lineterminator="\n")
    rows.writerow(("a_id", "b_id", "label", *answers.COLUMNS, *domain.COLUMNS))
    nearest = (one.identity[numbers].tolist() for one, numbers in zip(near, inputs.numbers, strict=True))
    labels = inputs.dataset.labels
    shown = labels.astype(int) if inputs.dataset.task == "classification" else labels
    own = (inputs.dataset.a_ids, inputs.dataset.b_ids, shown.tolist())
    columns = (*own, *(values.tolist() for values in found), *nearest, kinds.tolist())
    for row in zip(*columns, strict=True):
        rows.writerow("" if isinstance(cell, float) and np.isnan(cell) else cell for cell in row)
    return text.getvalue().encode()
