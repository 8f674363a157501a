"""How certain a prediction is: calibrated probabilities and intervals, and how well they held on the test folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crossllm.pipeline.evaluation.calibration import brier
from crossllm.pipeline.evaluation.classification import calibration_error
from crossllm.pipeline.evaluation.intervals import covered
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import FoldResult

OPTIMISTIC = "paper, optimistic"
"""In the column `protocol` of a `predictions.tsv` whose epochs were chosen on its own pairs."""


def calibrated(results: Sequence[FoldResult]) -> list[np.ndarray]:
    """(P_test,) probabilities of each fold of a classification; none where a fold has no calibration."""
    return [result.calibration.probability(result.score) for result in results if result.calibration is not None]


def columns(config: TrainConfig, results: Sequence[FoldResult]) -> dict[str, list[np.ndarray]]:
    """Further columns of `predictions.tsv` → their values in each fold's test pairs."""
    found: dict[str, list[np.ndarray]] = {}
    if results[0].calibration is not None:
        found["probability"] = calibrated(results)
    else:
        halves = [result.half_width or 0.0 for result in results]
        found["low"] = [result.score - half for result, half in zip(results, halves, strict=True)]
        found["high"] = [result.score + half for result, half in zip(results, halves, strict=True)]
    if config.protocol == "paper":
        found["protocol"] = [np.full(len(result.score), OPTIMISTIC) for result in results]
    return found


def certainty(config: TrainConfig, results: Sequence[FoldResult], scored: Sequence[Scored]) -> dict[str, Any]:
    """`calibration` of a classification or `interval` of a regression, and `summary_share`, as `metrics.json` has them.

    Args:
        config: the run's.
        results: of each fold.
        scored: the model's test predictions of each fold.
    """
    shares = [result.summary_share for result in results if result.summary_share is not None]
    mixed = {"summary_share": _over_folds(shares)} if shares else {}
    if results[0].calibration is not None:
        probability = calibrated(results)
        kinds = Counter(result.calibration.kind for result in results if result.calibration is not None)
        measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"calibration_error": _error, "brier": brier}
        found: dict[str, Any] = {"kind": dict(kinds)}
        for name, measure in measures.items():
            before = [measure(fold.label, fold.score) for fold in scored]
            after = [measure(fold.label, own) for fold, own in zip(scored, probability, strict=True)]
            found[name] = {"before": _over_folds(before), "after": _over_folds(after)}
        return mixed | {"calibration": found}
    halves = [result.half_width or 0.0 for result in results]
    coverage = [covered(fold.label, fold.score, half) for fold, half in zip(scored, halves, strict=True)]
    width = _over_folds([2 * half for half in halves])
    return mixed | {"interval": {"asked": config.interval, "coverage": _over_folds(coverage), "width": width}}


def _error(label: np.ndarray, probability: np.ndarray) -> float:
    return float(calibration_error(label, probability, np.ones((1, len(label))))[0])


def _over_folds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation and each value; null for what is infinite, as JSON has no infinity."""
    finite = bool(np.isfinite(values).all())
    return {
        "mean": float(np.mean(values)) if finite else None,
        "std": float(np.std(values, ddof=1)) if finite and len(values) > 1 else None,
        "per_fold": [float(value) if np.isfinite(value) else None for value in values],
    }
