"""What a training run is made of, resolved: defaults < flags.  Saved in the run folder as `config.toml`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from model.fusion import ModelConfig


@dataclass(frozen=True)
class TrainConfig:
    """What a user may choose of a run; the loss is `model.losses.focal_loss` with its named defaults."""

    split: str = "random"
    """`random` (distinct sequence pairs, stratified) or `given` (a column of the pairs table)."""
    fold_column: str = "fold"
    """The column that `given` takes."""
    folds: int = 5
    """Folds that `random` cuts."""
    validation: float = 0.15
    """Share of the training folds' sequence pairs that choose epoch and threshold."""
    tokens: str = "auto"
    """What a token is: residue, window:K or auto; the resolved value is saved."""
    epochs: int = 40
    """Most epochs."""
    patience: int = 8
    """Epochs without a better validation loss before training stops."""
    batch_pairs: int = 32
    """Pairs a step."""
    lr: float = 2e-3
    """AdamW's learning rate after `warmup_steps` of linear rise."""
    warmup_steps: int = 20
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient of all parameters."""
    seed: int = 0
    """Of folds, initial weights, order and noise."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def to_tables(self) -> dict[str, dict[str, Any]]:
        """The two TOML tables, `train` and `model`."""
        found = dataclasses.asdict(self)
        return {"train": {k: v for k, v in found.items() if k != "model"}, "model": found["model"]}
