"""From a score to a probability: a rising function, fitted on validation pairs, that changes no ranking.

Platt's logistic regression on the logit of the score (Platt 1999), or isotonic regression (Zadrozny & Elkan 2002) where
there are pairs enough for it: below some thousand it fits the noise (Niculescu-Mizil & Caruana 2005, figure 8).

Shapes: P pairs.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

ISOTONIC_PAIRS, ISOTONIC_OF_A_CLASS = 1000, 100
"""Validation pairs in all, and of either class, from which on isotonic regression is taken."""
_NEAREST = 1e-7
"""To 0 and 1 that a score is taken for: a float32 sigmoid reaches both, and their logits are infinite."""


class Calibration(NamedTuple):
    """A rising function from scores to probabilities, in numbers."""

    kind: Literal["platt", "isotonic"]
    x: tuple[float, ...]
    """Platt: the slope on the logit, not negative.  Isotonic: scores, rising."""
    y: tuple[float, ...]
    """Platt: the intercept.  Isotonic: the probability at each of those scores, straight lines between them."""

    def probability(self, score: np.ndarray) -> np.ndarray:
        """(P,) float64 probabilities of label 1 for these scores, of any shape."""
        found: np.ndarray
        if self.kind == "isotonic":
            found = np.interp(score.astype(float), self.x, self.y)
        else:
            found = 1 / (1 + np.exp(-(self.x[0] * _logit(score) + self.y[0])))
        return found


def fit_calibration(label: np.ndarray, score: np.ndarray) -> Calibration:
    """The calibration of these pairs, which the model was not fitted on: validation pairs.

    Args:
        label: (P,) 0 or 1.
        score: (P,) from 0 to 1, higher for label 1.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    positives = int((label == 1).sum())
    negatives = len(label) - positives
    if len(label) >= ISOTONIC_PAIRS and min(positives, negatives) >= ISOTONIC_OF_A_CLASS:
        steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score.astype(float), label)
        return Calibration("isotonic", tuple(steps.X_thresholds_.tolist()), tuple(steps.y_thresholds_.tolist()))
    # Platt's targets, a little within 0 and 1: without them, classes that a threshold separates give a step.
    target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    twice, classes = np.tile(_logit(score), 2)[:, None], np.repeat([1, 0], len(label))
    line = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        twice, classes, sample_weight=np.concatenate([target, 1 - target])
    )
    slope, intercept = float(line.coef_[0, 0]), float(line.intercept_[0])
    if slope < 0:  # scores that rank the wrong way round say nothing but how many are positive
        share = float(target.mean())
        slope, intercept = 0.0, float(np.log(share / (1 - share)))
    return Calibration("platt", (slope,), (intercept,))


def calibration_of(held: Any) -> Calibration:
    """A calibration out of a checkpoint, `Calibration._asdict()` as JSON has it.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    kind, x, y = held["kind"], np.array(held["x"], float), np.array(held["y"], float)
    whole = x.ndim == y.ndim == 1 and len(x) == len(y) >= 1 and np.isfinite(x).all() and np.isfinite(y).all()
    if kind == "platt":
        rising = whole and len(x) == 1 and x[0] >= 0
    else:
        rising = whole and kind == "isotonic" and not (np.diff(x) < 0).any() and not (np.diff(y) < 0).any()
    if not rising:
        raise ValueError("its calibration is no rising function")
    return Calibration(kind, tuple(x.tolist()), tuple(y.tolist()))


def brier(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean squared distance of a probability from the label (Brier 1950): 0 at best, 0.25 for always ½."""
    return float(np.mean((probability.astype(float) - label) ** 2))


def reliability(label: np.ndarray, probability: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a reliability diagram shows, of the bins that are not empty.

    Returns:
        Mean probability, share of positives, and number of pairs of each, from low to high.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    held = count > 0
    mean, share = (np.bincount(place, values, minlength=bins)[held] / count[held] for values in (probability, label))
    return mean, share, count[held]


def _logit(score: np.ndarray) -> np.ndarray:
    within = np.clip(score.astype(float), _NEAREST, 1 - _NEAREST)
    found: np.ndarray = np.log(within / (1 - within))
    return found
