"""What the scores of a fold's validation part decide: threshold, calibration, interval, and our model's mixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.calibration import Calibration, fit_calibration
from crossllm.pipeline.evaluation.classification import best_threshold
from crossllm.pipeline.evaluation.intervals import half_width
from crossllm.pipeline.training.config import TrainConfig

SHARES = tuple(tenths / 10 for tenths in range(11))
"""What the summaries' expert may have of the mixture."""


class Decision(NamedTuple):
    """As `FoldResult` has them."""

    threshold: float | None = None
    calibration: Calibration | None = None
    half_width: float | None = None


def summary_share(outputs: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """Of the second expert's outputs (2, P_validation) in the mixture: the one of `SHARES` with the least loss."""
    losses = [float(loss(outputs[0].lerp(outputs[1], share))) for share in SHARES]
    return SHARES[int(np.argmin(losses))]


def decide(task: Task, label: np.ndarray, score: np.ndarray, config: TrainConfig) -> Decision:
    """From validation pairs alone.

    Args:
        task: of the dataset.
        label: (P_validation,) labels as they are.
        score: (P_validation,) what the system says of them, in the type in which it scores test pairs.
        config: the run's.
    """
    if task == "regression":
        return Decision(half_width=half_width(label, score, config.interval))
    threshold = 0.5 if config.protocol == "paper" else best_threshold(label, score)
    return Decision(threshold, fit_calibration(label, score))
