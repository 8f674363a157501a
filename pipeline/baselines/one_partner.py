"""`one_partner_a`, `one_partner_b`: the pooled rows of one partner alone, so that no interaction can be seen.

Linear models of scikit-learn: logistic regression for classes, ridge regression for affinities.
"""

from __future__ import annotations

import numpy as np

from crossllm.pipeline.baselines.material import Material, Predictor

PENALTIES = np.logspace(-1, 5, 7)
"""Of the ridge regression, chosen by leave-one-sequence-out among the fitted ones."""
STEPS = 2000
"""Most steps of the logistic regression's solver."""


def one_partner(side: int) -> Predictor:
    """Fitted on the mean of each sequence's rows of A (0) or B (1), standardised over the fitted sequences.

    Pairs of one sequence have the same input, so each sequence is fitted once, weighted by its pairs.
    """

    def predict(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.preprocessing import StandardScaler

        dataset, of_pair = material.dataset, material.sides[side].of_pair
        seen, place = np.unique(of_pair[fitted], return_inverse=True)
        scaler = StandardScaler().fit(material.pooled[side][seen])
        rows = scaler.transform(material.pooled[side]).astype(np.float64)
        sums = np.bincount(place, dataset.labels[fitted])
        counts = np.bincount(place).astype(float)
        wanted, at = np.unique(of_pair[asked], return_inverse=True)
        if dataset.task == "regression":
            line = RidgeCV(PENALTIES).fit(rows[seen], sums / counts, sample_weight=counts)
            affinity: np.ndarray = line.predict(rows[wanted])[at]
            return affinity
        classes = np.repeat([1, 0], len(seen))
        weights = np.concatenate([sums, counts - sums])
        some = weights > 0
        twice = np.concatenate([rows[seen], rows[seen]])
        solver = LogisticRegression(max_iter=STEPS, solver="newton-cholesky")  # few Newton steps; lbfgs takes hundreds
        classifier = solver.fit(twice[some], classes[some], weights[some])
        score: np.ndarray = classifier.predict_proba(rows[wanted])[:, 1][at]
        return score

    return predict
