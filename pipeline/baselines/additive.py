"""The additive baseline of affinities: what each partner adds, whoever the other is."""

from __future__ import annotations

import numpy as np

from crossllm.pipeline.baselines.material import Material


def additive(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Affinity = mean + what partner A adds + what partner B adds, by distinct sequence; nothing for an unseen partner.

    Fitted by ridge regression on the two indicators (penalty 1 on each partner's share, so that a partner measured
    once moves half way).
    """
    from scipy import sparse
    from sklearn.linear_model import Ridge

    dataset = material.dataset
    pairs = np.arange(len(dataset.labels))
    sides = dataset.numbers()
    ones, width = np.ones(len(pairs)), max(side.max() for side in sides) + 1
    of_side = [sparse.csr_matrix((ones, (pairs, side)), shape=(len(pairs), width)) for side in sides]
    # A partner that may stand on either side adds the same on both.
    indicators = of_side[0] + of_side[1] if dataset.one_modality else sparse.hstack(of_side).tocsr()
    line = Ridge(alpha=1.0, solver="sparse_cg", tol=1e-10).fit(indicators[fitted], dataset.labels[fitted])
    affinity: np.ndarray = line.predict(indicators[asked])
    return affinity
