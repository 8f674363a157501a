"""Folders of finished runs, made without training: what a report reads, with any names, sizes and numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, summarise
from crossllm.pipeline.experiments.seeds import summarise_seeds
from crossllm.pipeline.training.config import TrainConfig

MODALITIES = {"classification": ("rna", "protein"), "regression": ("rna", "molecule")}
NOISE = {"model": 0.25, "trees": 0.35, "id_only": 0.6}
"""Model or baseline → how far its scores are from the labels."""
BINS = ("1", "0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0")


def made_result(
    folder: Path,
    rng: np.random.Generator,
    *,
    task: Task = "classification",
    pairs: int = 120,
    folds: Sequence[str] = ("0", "1", "2"),
    noise: dict[str, float] = NOISE,
    seed: int = 0,
    **metrics: Any,
) -> Path:
    """A run of one seed; `metrics` replaces parts of its `metrics.json`."""
    folder.mkdir(parents=True)
    label = rng.integers(0, 2, pairs) if task == "classification" else rng.normal(6, 1.5, pairs)
    of = {name: _scored(task, label, rng.normal(0, far, pairs), len(folds)) for name, far in noise.items()}
    config = TrainConfig(folds=len(folds), seed=seed)
    tables = {"dataset": {"digest": "d" * 64, "split_digest": "e" * 64}, "recipe": {"a": "a" * 64, "b": "b" * 64}}
    tables |= {"run": {"version": 6, "device": "cpu", "threads": 1}, **config.to_tables()}
    import tomli_w

    (folder / "config.toml").write_bytes(tomli_w.dumps(tables).encode())
    (folder / "metrics.json").write_text(json.dumps(_metrics(task, of, folds, pairs, seed) | metrics))
    for name, scored in of.items():
        file = "predictions.tsv" if name == "model" else f"predictions.{name}.tsv"
        _write_predictions(folder / file, task, scored, folds, certain=name == "model")
    history = [(fold, n + 1, 1 / (n + 1), 0.5 + 0.1 * abs(n - 3)) for fold in folds for n in range(6)]
    _write(folder / "history.csv", ",", ("fold", "epoch", "train_loss", "validation_loss"), history)
    (folder / "checkpoints").mkdir()
    for n in range(len(folds)):
        (folder / "checkpoints" / f"fold-{n}.json").write_text(json.dumps({"best_epochs": [2, 4]}))
    return folder


def made_seeds(folder: Path, rng: np.random.Generator, count: int = 3, **options: Any) -> Path:
    """A run of several seeds."""
    for seed in range(count):
        made_result(folder / f"seed-{seed}", rng, seed=seed, **options)
    runs = [json.loads((folder / f"seed-{seed}" / "metrics.json").read_text()) for seed in range(count)]
    (folder / "config.toml").write_text(f"[seeds]\nfirst = 0\ncount = {count}\n")
    (folder / "metrics.json").write_text(json.dumps(summarise_seeds(runs, range(count))))
    return folder


def made_ablation(folder: Path, rng: np.random.Generator, values: Sequence[str], **options: Any) -> Path:
    """An ablation of one field; the third row is surely worse than the first, a last one failed."""
    rows = []
    for n, value in enumerate(values):
        inner = made_result(folder / "rows" / f"row-{n}", rng, **options)
        own = json.loads((inner / "metrics.json").read_text())
        metric = METRICS[own["task"]][0]
        compared = {"difference": -0.1 * n, "ci95": [-0.1 * n - 0.05, -0.1 * n + 0.15], "p": 0.03}
        rows.append({
            "settings": {"fusion": value}, "changed": {"fusion": value} if n else {}, "folder": f"elsewhere/row-{n}",
            "problem": None, "metrics": summarise_seeds([own], [0]),
            "comparison": {"metrics": {metric: compared}} if n else None,
        })  # fmt: skip
    failed = {"problem": "no such fusion", "metrics": None, "comparison": None, "folder": "row-x"}
    rows.append({"settings": {"fusion": "x"}, "changed": {"fusion": "x"}, **failed})
    (folder / "ablation.toml").write_text("[ablation]\n")
    (folder / "ablation.json").write_text(json.dumps({"task": own["task"], "metric": metric, "rows": rows}))
    return folder


def _scored(task: Task, label: np.ndarray, noise: np.ndarray, folds: int) -> list[Scored]:
    score = np.clip(0.3 + 0.4 * label + noise, 0.01, 0.99) if task == "classification" else label + 2 * noise
    parts = np.array_split(np.arange(len(label)), folds)
    return [Scored(label[p], score[p], (score[p] >= 0.5).astype(int) if task == "classification" else score[p])
            for p in parts]  # fmt: skip


def _metrics(task: Task, of: dict[str, list[Scored]], folds: Sequence[str], pairs: int, seed: int) -> dict[str, Any]:
    found = {
        name: {metric: one._asdict() for metric, one in summarise(task, scored, 0, replicates=20).items()}
        for name, scored in of.items()
    }
    over_folds = {"mean": 0.1, "std": 0.01, "per_fold": [0.1] * len(folds)}
    both = {"before": over_folds, "after": over_folds}
    held: dict[str, Any] = (
        {"calibration": {"kind": {"platt": len(folds)}, "calibration_error": both, "brier": both}}
        if task == "classification"
        else {"interval": {"asked": 0.9, "coverage": over_folds | {"mean": 0.6}, "width": over_folds}}
    )
    classes = {"C1": 0.5, "C2a": 0.25, "C2b": 0.25, "C3": 0.0}
    return {
        "task": task, "split": "random", "blocks": None, "dropped": [0] * len(folds), "protocol": "honest",
        "optimistic": False, "folds": len(folds), "fold_names": list(folds), "dataset": "made", "pairs": pairs,
        "seed": seed, "tokens": "pooled", "compute": "float32", "scan": "numba", "fusion": "cross_mamba",
        "parameters": {"head": 1089}, "encoders": {"a": "rinalmo-giga-" + "a" * 16, "b": "mine-" + "b" * 16},
        "shared_between_folds": 0, "ids_are_sequences": True, "tested": pairs, "undefined": {},
        "model": found.pop("model"), "baselines": found, **held,
        "leaks": {
            "modalities": MODALITIES[task], "task": task, "by_sequence": classes, "by_cluster": classes,
            "nearest_a": dict.fromkeys(BINS, 1 / 9), "nearest_b": dict.fromkeys(BINS, 1 / 9),
            "same_sequence_pair": 0.0, "same_cluster_pair": 0.1, "dataset": {"repeated": 0, "contradictory": 0},
            "counts": {"by_id": 0.6, "by_sequence": None},
        },
    }  # fmt: skip


def _write_predictions(path: Path, task: Task, scored: list[Scored], folds: Sequence[str], *, certain: bool) -> None:
    further: tuple[str, ...] = ()
    if certain:
        further = ("probability",) if task == "classification" else ("low", "high")
    rows, number = [], 0
    for fold, found in zip(folds, scored, strict=True):
        for label, score, predicted in zip(*(values.tolist() for values in found), strict=True):
            more = {"probability": score, "low": score - 0.8, "high": score + 0.8}
            rows.append((f"a{number}", f"b{number}", label, fold, score, predicted, *(more[name] for name in further)))
            number += 1
    _write(path, "\t", ("a_id", "b_id", "label", "fold", "score", "predicted", *further), rows)


def _write(path: Path, delimiter: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
