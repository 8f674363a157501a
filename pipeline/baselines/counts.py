"""Baselines of who stands in the table how often and how high; none reads a sequence."""

from __future__ import annotations

import numpy as np

from crossllm.pipeline.baselines.material import Material, Predictor
from crossllm.pipeline.evaluation.counts import count_scores


def counts(*, by_sequence: bool) -> Predictor:
    """`id_only`, or by distinct sequence `id_only_sequence`: `count_scores` of the fitted pairs."""

    def predict(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
        dataset = material.dataset
        sides = dataset.numbers(by_sequence=by_sequence)
        return count_scores(sides, dataset.labels, dataset.task, fitted, asked, one_modality=dataset.one_modality)

    return predict
