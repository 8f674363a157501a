"""`trees`: extremely randomised trees (Geurts et al., Mach Learn 2006;63:3) on both partners' descriptors."""

from __future__ import annotations

import numpy as np

from crossllm.pipeline.baselines.forest import drawn, fit_forest, votes
from crossllm.pipeline.baselines.material import Material, Predictor

TREES = 200


def trees(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The baseline: `TREES` extra trees."""
    return extra_trees(TREES, "trees")(material, fitted, asked)


def extra_trees(count: int, name: str) -> Predictor:
    """Mean vote of so many trees on the joined descriptors of the two partners; `name` stands in what is said."""

    def predict(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
        from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

        seed = material.config.seed
        fitted = drawn(fitted, seed, name)

        def rows_of(pairs: np.ndarray) -> np.ndarray:
            return material.joined(material.descriptors, pairs)

        kind = ExtraTreesClassifier if material.dataset.task == "classification" else ExtraTreesRegressor
        forest = fit_forest(kind, count, seed, rows_of(fitted), material.dataset.labels[fitted])
        return votes(forest, rows_of, asked)

    return predict
