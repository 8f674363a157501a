"""What a system is: something that is fitted on a fold's training part and scores its validation and test parts.

A system is a function of its own file, `NAME.py`, with a line in `registry`.  What comes after its scores (threshold,
calibration, interval, metrics, plots) is the same for all and none of its business.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from crossllm.pipeline.baselines.material import Material, Predictor, score_test, score_validation
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.progress import Epoch


class Fitted(NamedTuple):
    """What a system says of one fold.  Scores are from 0 to 1, higher for label 1, or affinities as the table has them.

    No number depends on the labels of test pairs, and none of `validation` on test pairs at all.
    """

    validation: np.ndarray
    """(P_validation,) in the order of the fold's validation part, by a fit on its training part alone."""
    test: np.ndarray
    """(P_test,) in the order of its test part."""
    best_epoch: int = 0
    """Of `history`, whose weights were taken; 0 where there are no epochs."""
    history: Sequence[Epoch] = ()
    """Of a network whose epochs are worth a curve."""


Told = Callable[[str, float], None]
"""Is told what a system is at, in words, and which share of the fold's work is behind it."""
System = Callable[[Material, Parts, int, Told], Fitted]
"""Fits a system on one fold, whose parts and number are given."""


def untold(_text: str, _share: float) -> None:
    """For whoever wants to hear nothing."""


def refitting(predict: Predictor) -> System:
    """A system without epochs: fitted on the training part for the validation scores, on both parts for the test's."""

    def fit(material: Material, parts: Parts, _number: int, told: Told) -> Fitted:
        told("fitting on the training part", 0.0)
        validation = score_validation(predict, material, parts)
        told("fitting on training and validation part", 0.5)
        return Fitted(validation, score_test(predict, material, parts))

    return fit


def side_of(material: Material, modality: str) -> int:
    """0 or 1: which side of a dataset of two modalities this one is; users choose the order."""
    return next(n for n, side in enumerate(material.sides) if side.modality == modality)
