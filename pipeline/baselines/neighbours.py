"""Baselines that look up the labels of related pairs, and read nothing of a pair but whom its partners resemble.

Shapes: P pairs, S sequences that are compared, A and B those of each side.
"""

from __future__ import annotations

import numpy as np

from crossllm.pipeline.baselines.material import Material

AT_ONCE = 2048
"""Pairs that are scored together: their neighbourhoods are kept in memory."""


def relatives(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean label of the fitted pairs of the same two clusters; where there is none, the mean of all."""
    labels = material.dataset.labels
    a, b = (s.component[n] for s, n in zip(material.similarities, material.similar_numbers, strict=True))
    if material.dataset.one_modality:  # (x, y) and (y, x) are the same two
        a, b = np.minimum(a, b), np.maximum(a, b)
    _, pair = np.unique(np.stack([a, b]), axis=1, return_inverse=True)
    pair = pair.reshape(-1)
    sums = np.bincount(pair[fitted], labels[fitted], minlength=pair.max() + 1)
    counts = np.bincount(pair[fitted], minlength=pair.max() + 1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), labels[fitted].mean())
    found: np.ndarray = means[pair[asked]]
    return found


def nearest(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean label of the fitted pairs, each weighted by identity(A, its A) · identity(B, its B).

    With Y the sums and N the counts of the fitted labels by (A, B), and I the identities, this is
    (I_A Y I_Bᵀ) ÷ (I_A N I_Bᵀ) at the pair's place.  A pair that resembles none on both sides gets the mean of all.
    """
    from scipy import sparse

    labels = material.dataset.labels
    (first, second), (a, b) = material.similarities, material.similar_numbers
    mean = float(labels[fitted].mean())
    shape = (len(first.keys), len(second.keys))
    rows, columns, values = a[fitted], b[fitted], labels[fitted] - mean
    if material.dataset.one_modality:  # (x, y) and (y, x) are the same two
        rows, columns, values = np.append(rows, columns), np.append(columns, rows), np.append(values, values)
    sums = sparse.csr_matrix((values, (rows, columns)), shape=shape)
    counts = sparse.csr_matrix((np.ones(len(values)), (rows, columns)), shape=shape)
    found = np.empty(len(asked))
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        near_a, near_b = first.identity[a[part]], second.identity[b[part]]
        votes = np.asarray((near_a @ sums).multiply(near_b).sum(axis=1)).ravel()
        weights = np.asarray((near_a @ counts).multiply(near_b).sum(axis=1)).ravel()
        found[start : start + AT_ONCE] = mean + np.where(weights > 0, votes / np.where(weights > 0, weights, 1), 0)
    return np.clip(found, labels[fitted].min(), labels[fitted].max())
