"""What the model's output stands for, and the loss that follows from it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from crossllm.model.losses import affinity_loss, bce_loss, focal_loss
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.training.config import TrainConfig


class Target(NamedTuple):
    """What the model's output stands for: a logit, or an affinity scaled by the training part's mean and deviation."""

    task: Task
    mean: float = 0.0
    std: float = 1.0
    mse_weight: float = 0.5
    alpha: float = 0.5
    """Of the focal loss: weight of the positives."""

    def scale(self, labels: np.ndarray) -> np.ndarray:
        """Labels as the loss takes them, in float64: 10⁷ ± 0.3 is scaled before anything is rounded to float32."""
        scaled: np.ndarray = (labels - self.mean) / self.std
        return scaled

    def loss(self, output: Tensor, label: Tensor, config: TrainConfig) -> Tensor:
        """Loss of the model's output against scaled labels."""
        if self.task == "regression":
            return affinity_loss(output, label, self.mse_weight)
        if config.loss == "bce":
            return bce_loss(output, label)
        return focal_loss(output, label, config.focal_gamma, self.alpha)

    def score(self, output: Tensor) -> np.ndarray:
        """(P,) scores from 0 to 1, float32, or affinities float64 in the table's unit.

        A score ranks pairs; trained with the focal loss it is no probability (docs/outputs.md).
        """
        if self.task == "classification":
            score: np.ndarray = output.sigmoid().numpy()
            return score
        affinity: np.ndarray = output.double().numpy() * self.std + self.mean
        return affinity


def fit_target(task: Task, labels: np.ndarray, train: np.ndarray, config: TrainConfig) -> Target:
    """The scaling of an affinity, or the weight of the positives, from the training part alone."""
    if task == "classification":
        alpha = config.focal_alpha
        return Target(task, alpha=1 - float(labels[train].mean()) if isinstance(alpha, str) else alpha)
    mean, std = float(labels[train].mean()), float(labels[train].std())
    constant = std <= 1e-12 * float(np.abs(labels[train]).max())  # what rounding leaves of no spread at all
    return Target(task, mean, 1.0 if constant else std, config.mse_weight)
