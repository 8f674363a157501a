"""A finished run as `compare` reads it: its test predictions by pair, for each of its seeds.

Read from `predictions.tsv`, `metrics.json` and `config.toml` alone: no cache and no weights are needed.
"""

from __future__ import annotations

import csv
import io
import math
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.training.seed_folders import held_seeds, seed_folder

_MAX_FILE = 4 << 30

Pair = tuple[str, str]
"""a_id and b_id."""


class Prediction(NamedTuple):
    """One tested pair."""

    label: float
    fold: str
    score: float
    predicted: float


class SeedRun(NamedTuple):
    """The run of one seed."""

    folder: Path
    seed: int
    dataset: str
    """Digest of the dataset, empty where the run has none."""
    split: str
    """Digest of dataset and folds."""
    tested: dict[Pair, Prediction]


class TestedRun(NamedTuple):
    """A run with everything that a comparison needs."""

    folder: Path
    task: Task
    dataset: str
    """Name of the dataset."""
    system: str
    """What was fitted, as `config.toml` names it."""
    optimistic: bool
    """Whether its own outputs call its numbers so."""
    ids_are_sequences: bool
    one_numbering: bool
    """Whether both sides are of one recipe, so that an id is the same sequence on either side."""
    seeds: dict[int, SeedRun]


def read_run(folder: Path) -> TestedRun:
    """A run of one seed or of several.

    Raises:
        InputError: no finished run is there.
        CacheCorrupt: its files are not what a run leaves behind.
    """
    seeds = held_seeds(folder)
    folders = [folder] if seeds is None else [seed_folder(folder, seed) for seed in seeds]
    read = [_read_seed(where) for where in folders]
    first = read[0][1]
    task, recipe = first.get("task"), read[0][2].get("recipe", {})
    if task not in ("classification", "regression") or not isinstance(recipe, dict):
        raise CacheCorrupt(f"{folders[0] / 'metrics.json'}: task '{printable(str(task))}'; train again")
    return TestedRun(
        folder,
        task,
        str(first.get("dataset", "")),
        str(first.get("system", OUR_MODEL)),
        bool(first.get("optimistic", False)),
        bool(first.get("ids_are_sequences", True)),
        recipe.get("a") is not None and recipe.get("a") == recipe.get("b"),
        {found.seed: found for found, _, _ in read},
    )


def _read_seed(folder: Path) -> tuple[SeedRun, dict[str, Any], dict[str, Any]]:
    """The run of one seed, its `metrics.json` and its `config.toml`."""
    if not (folder / "config.toml").is_file():
        raise InputError(f"{folder}: holds no run; name the folder of one, runs/NAME in its cache")
    if not (folder / "metrics.json").is_file():
        raise InputError(f"{folder}: this run is not finished; go on with `train --resume`")
    metrics = parse_json(read_bytes(folder / "metrics.json", _MAX_FILE), folder / "metrics.json")
    try:
        config = tomllib.loads(read_bytes(folder / "config.toml", _MAX_FILE).decode())
        data = config.get("dataset", {})
        found = SeedRun(
            folder,
            int(config.get("train", {}).get("seed", 0)),
            str(data.get("digest", "")),
            str(data.get("split_digest", "")),
            _predictions(folder / "predictions.tsv"),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CacheCorrupt(f"{folder / 'config.toml'}: {error}; train again") from None
    return found, metrics, config


def _predictions(path: Path) -> dict[Pair, Prediction]:
    """Every tested pair of a table of predictions.

    Raises:
        CacheCorrupt: it lacks a column, a number, or holds a pair twice.
    """
    try:
        table = csv.DictReader(io.StringIO(read_bytes(path, _MAX_FILE).decode(), newline=""), delimiter="\t")
    except FileNotFoundError:
        raise CacheCorrupt(f"{path}: missing, though its run is finished; run it again with --resume") from None
    except UnicodeDecodeError as error:
        raise CacheCorrupt(f"{path}: {error}; train again") from None
    found: dict[Pair, Prediction] = {}
    for number, row in enumerate(table, 2):
        try:
            pair = row["a_id"], row["b_id"]
            prediction = Prediction(float(row["label"]), row["fold"], float(row["score"]), float(row["predicted"]))
            if not all(map(math.isfinite, (prediction.label, prediction.score, prediction.predicted))):
                raise ValueError("a number that is not finite")
        except (KeyError, TypeError, ValueError) as error:
            raise CacheCorrupt(f"{path}:{number}: {error}; no table of predictions, train again") from None
        if pair in found:
            raise CacheCorrupt(f"{path}:{number}: {printable(pair[0])} and {printable(pair[1])} stand there twice")
        found[pair] = prediction
    return found
