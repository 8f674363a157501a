"""A training run as an operation that the zygote kills: it keeps how far it has come after every step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossllm.pipeline.training.inputs import TrainOptions

OUTPUTS = ("history.csv", "predictions.tsv", "checkpoints/fold-0.safetensors", "checkpoints/fold-1.safetensors")
"""What must be the same bytes however often a run was killed."""


def options_of(cache: Path) -> TrainOptions:
    from made_runs import QUICK

    from crossllm.pipeline.training.inputs import TrainOptions

    # With all that a fold's state may hold.
    config = dataclasses.replace(QUICK, epochs=3, ensemble=2, ema=0.9, schedule="cosine")
    return TrainOptions(cache, config, out=cache.parent / "run", resume=True, quiet=True)


def train_on(cache: Path, _acks: int | None) -> None:
    """Train, or go on training, in `run` beside the cache; saved after every step."""
    from crossllm.pipeline import train
    from crossllm.pipeline.training import keeping

    keeping.EVERY = keeping.TIMES = 0
    train.train(options_of(cache))


WORKS = {"train": train_on}
