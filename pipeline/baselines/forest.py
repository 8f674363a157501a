"""Forests of scikit-learn on rows of pairs, the same number in every run: of the baseline `trees`, and of systems.

Shapes: P pairs, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from crossllm.cache.console.messages import note

MOST_PAIRS = 50_000
"""Pairs that a forest is fitted on; of more, so many are drawn: a row of a pair takes some 4 KB."""
AT_ONCE = 8192
"""Pairs that are scored together."""

RowsOf = Callable[[np.ndarray], np.ndarray]
"""(P,) numbers of pairs → their (P, F) rows."""


def drawn(fitted: np.ndarray, seed: int, name: str) -> np.ndarray:
    """At most `MOST_PAIRS` of the pairs, and a line that says so where it is not all."""
    if len(fitted) <= MOST_PAIRS:
        return fitted
    note(f"note: {name}: fitted on {MOST_PAIRS:,} of {len(fitted):,} pairs, drawn at random")
    return np.random.default_rng(seed).choice(fitted, MOST_PAIRS, replace=False)


def fit_forest(kind: type[Any], count: int, seed: int, rows: np.ndarray, labels: np.ndarray) -> Any:
    """A forest of so many trees; √F features are tried at each cut.  Each tree has a seed of its own."""
    forest = kind(count, max_features="sqrt", n_jobs=torch.get_num_threads(), random_state=seed)
    forest.fit(rows, labels)
    forest.n_jobs = 1  # threads add their votes in the order in which they end: another last bit each time
    return forest


def votes(forest: Any, rows_of: RowsOf, asked: np.ndarray) -> np.ndarray:
    """(P,) mean vote of the trees: share of label 1, or affinity."""
    found = np.empty(len(asked))
    for start in range(0, len(asked), AT_ONCE):
        rows = rows_of(asked[start : start + AT_ONCE])
        classes = hasattr(forest, "predict_proba")  # a forest of affinities has none
        own = forest.predict_proba(rows)[:, 1] if classes else forest.predict(rows)
        found[start : start + AT_ONCE] = own
    return found
