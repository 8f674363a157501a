"""`trees`: extremely randomised trees (Geurts et al., Mach Learn 2006;63:3) on both partners' descriptors."""

from __future__ import annotations

import numpy as np
import torch

from crossllm.cache.console.messages import note
from crossllm.pipeline.baselines.material import Material

TREES = 200
MOST_PAIRS = 50_000
"""Pairs that the trees are fitted on; of more, so many are drawn: a descriptor of a pair takes some 4 KB."""
AT_ONCE = 8192
"""Pairs that are scored together."""


def trees(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean vote of `TREES` trees on the joined descriptors of the two partners; √F features are tried at each cut."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    seed = material.config.seed
    if len(fitted) > MOST_PAIRS:
        note(f"note: trees: fitted on {MOST_PAIRS:,} of {len(fitted):,} pairs, drawn at random")
        fitted = np.random.default_rng(seed).choice(fitted, MOST_PAIRS, replace=False)
    task, labels = material.dataset.task, material.dataset.labels
    kind = ExtraTreesClassifier if task == "classification" else ExtraTreesRegressor
    forest = kind(TREES, max_features="sqrt", n_jobs=torch.get_num_threads(), random_state=seed)
    forest.fit(_joined(material, fitted), labels[fitted])
    forest.n_jobs = 1  # threads add their votes in the order in which they end: another last bit each time
    found = np.empty(len(asked))
    for start in range(0, len(asked), AT_ONCE):
        rows = _joined(material, asked[start : start + AT_ONCE])
        votes = forest.predict(rows) if task == "regression" else forest.predict_proba(rows)[:, 1]
        found[start : start + AT_ONCE] = votes
    return found


def _joined(material: Material, pairs: np.ndarray) -> np.ndarray:
    """(P, F_a + F_b) float32."""
    sides = zip(material.descriptors, material.sides, strict=True)
    return np.concatenate([features[side.of_pair[pairs]] for features, side in sides], axis=1)
