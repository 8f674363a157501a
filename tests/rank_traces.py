"""The loss of every step of a fold, fitted by one process, or by several when it is run as a program by each."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from made_runs import QUICK

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.ranks.launch import launched
from crossllm.pipeline.ranks.ranks import Ranks
from crossllm.pipeline.ranks.session import together
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.fold import FoldResult, fit_fold
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.progress import Progress

CASES = {
    "classification": {"epochs": 3, "batch_pairs": 7, "ensemble": 2, "ema": 0.9, "schedule": "cosine"},
    # Of such batches many hold one pair, and leave nothing to the second process.
    "regression": {"epochs": 1, "batch_pairs": 5, "batch_tokens": 400, "fusion": "cross_attention"},
}
"""Task → what its fold is fitted with; noise and dropout are as they are by default."""


class Trace(NamedTuple):
    """What a fold's training left."""

    steps: list[float]
    """Loss times pairs."""
    epochs: list[float]
    """Validation losses."""
    score: list[float]


def trace(cache: Path, task: str, ranks: Ranks) -> Trace:
    """Fit the first fold of a cache's dataset; affinities are made up."""
    own = dict(CASES[task])
    model = dataclasses.replace(QUICK.model, noise=0.1, fusion=own.pop("fusion", "cross_mamba"))
    config = dataclasses.replace(QUICK, model=model, **own)  # type: ignore[arg-type]
    inputs = open_inputs(TrainOptions(cache, config, quiet=True))
    parts = cut_parts(inputs.dataset, inputs.folds, 0, config.validation, config.seed)
    data = inputs.dataset
    made = np.random.default_rng(3).normal(size=len(data.labels)) + data.labels
    labels = data.labels if task == "classification" else made
    batches = PairBatches(inputs.readers, data.a_keys, data.b_keys, inputs.window, cast(Task, task), labels)
    steps: list[float] = []
    kept = Progress.end_step

    def end_step(self: Progress, loss: float) -> None:
        steps.append(loss)
        kept(self, loss)

    Progress.end_step = end_step  # type: ignore[method-assign]
    try:
        found: FoldResult = fit_fold(batches, parts, config, 5, torch.device("cpu"), lambda _: None, None, None, ranks)
    finally:
        Progress.end_step = kept  # type: ignore[method-assign]
    return Trace(steps, [epoch.validation_loss for epoch in found.history], found.score.tolist())


def main() -> None:
    """`python rank_traces.py CACHE`: traces of all cases on standard output, by every process."""
    torch.set_num_threads(1)
    found = launched()
    assert found is not None
    with together(found, "cpu") as ranks:
        print(json.dumps({task: trace(Path(sys.argv[1]), task, ranks) for task in CASES}))


if __name__ == "__main__":
    main()
