"""Intervals around predicted affinities: split conformal prediction (Lei et al., JASA 2018;113:1094, algorithm 2).

The half width is a quantile of |label − prediction| on validation pairs.  A test pair that is exchangeable with them
lies within at the share asked for, whatever the model.  Two things are not as the theorem has them.  The validation
residuals chose the epoch, which makes them a little too small.  And test pairs of unseen partners, or of another
species, are not exchangeable with validation pairs cut from the training side.  So the share that was reached on the
test folds is reported beside every interval.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def half_width(label: np.ndarray, predicted: np.ndarray, share: float) -> float:
    """Half the width of the interval that holds `share` of the labels, in their unit.

    The ⌈(n + 1) · share⌉-th smallest of the n residuals; infinite where n is too small for that share (n < 9 for 90 %).
    """
    residuals = np.sort(np.abs(label.astype(float) - predicted.astype(float)))
    rank = math.ceil((len(residuals) + 1) * share - 1e-9)  # 10 · 0.9 is a little above 9
    return float(residuals[rank - 1]) if rank <= len(residuals) else math.inf


def covered(label: np.ndarray, predicted: np.ndarray, half: float) -> float:
    """Share of the labels that lie within `half` of their prediction."""
    return float(np.mean(np.abs(label.astype(float) - predicted.astype(float)) <= half))


def half_width_as_json(half: float | None) -> float | str | None:
    """A half width in a checkpoint: JSON has no infinity, and null stands for no interval at all."""
    return half if half is None or math.isfinite(half) else "infinite"


def half_width_of(held: Any) -> float:
    """A half width out of a checkpoint.

    Raises:
        ValueError: it is none.
    """
    if held == "infinite":
        return math.inf
    if type(held) not in (int, float) or not 0 <= held < math.inf:
        raise ValueError(f"the half width of its interval is {held!r}")
    return float(held)
