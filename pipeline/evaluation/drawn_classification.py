"""Classification metrics of bootstrap replicates by a compiled kernel: those of `classification`, without its (R, P).

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

import numpy as np

from crossllm.kernels import kernel
from crossllm.pipeline.evaluation.classification import CALIBRATION_BINS, bin_of, from_counts
from crossllm.pipeline.evaluation.draws import Draws, in_threads


def compute_drawn(label: np.ndarray, score: np.ndarray, predicted: np.ndarray, draws: Draws) -> dict[str, np.ndarray]:
    """`classification.compute` of the weights that `draws` stand for: name → (R,); equal to it but for rounding."""
    label, predicted = label.astype(bool), predicted.astype(bool)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # the last pair of each distinct score
    gap = (label - score).astype(float)[order]
    cell = (2 * label + predicted).astype(np.int8)[order]
    found = in_threads(_by_falling_score, 7, draws, order, cell, last, bin_of(score)[order].astype(np.int8), gap)
    tn, fp, fn, tp, auroc, auprc, gaps = found.T
    return from_counts(tp, fp, fn, tn, auroc, auprc, gaps)


@kernel(nogil=True, error_model="numpy")
def _by_falling_score(found, a_times, b_times, a, b, cell, last, bins, gap):  # type: ignore[no-untyped-def]
    """One pass a replicate: counts of the four cells, both areas, the sum of the bins' absolute gaps.

    `cell` is 2 · label + predicted.  Equal scores are taken together, at the `last` of them.
    """
    for r in range(len(found)):
        cells = np.zeros(4, np.int64)
        gaps = np.zeros(CALIBRATION_BINS)
        roc = precisions = 0.0
        positive = negative = before_p = before_n = 0
        for n in range(len(a)):
            weight = np.int64(a_times[r, a[n]]) * b_times[r, b[n]]
            if weight:
                cells[cell[n]] += weight
                gaps[bins[n]] += weight * gap[n]
                if cell[n] >= 2:
                    positive += weight
                else:
                    negative += weight
            if last[n]:
                if positive > before_p:
                    precisions += (positive - before_p) * (positive / (positive + negative))
                roc += (negative - before_n) * (positive + before_p) / 2
                before_p, before_n = positive, negative
        found[r, :4] = cells
        found[r, 4] = roc / (float(positive) * negative) if positive * negative > 0 else np.nan
        found[r, 5] = precisions / positive if positive > 0 else np.nan
        found[r, 6] = np.abs(gaps).sum()
