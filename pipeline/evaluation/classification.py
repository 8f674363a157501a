"""Classification metrics, computed for many weightings of the same pairs at once.  Held to scikit-learn's by a test.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

import numpy as np

CALIBRATION_BINS = 10
METRICS = ("mcc", "accuracy", "f1", "precision", "recall", "auroc", "auprc", "calibration_error")


def compute(label: np.ndarray, score: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of `METRICS` for each row of weights: (R, P) → name → (R,).

    NaN where a metric is undefined: MCC and AUROC without both classes, F1, precision, recall and AUPRC without a
    positive, all without a pair.  Where both classes are there and one alone is predicted, MCC, F1 and precision are 0,
    as the field has it.

    Args:
        label: (P,) 0 or 1.
        score: (P,) from 0 to 1, higher for label 1.
        predicted: (P,) 0 or 1.
        weights: (R, P) how often each pair counts.
    """
    label, predicted = label.astype(bool), predicted.astype(bool)
    tp, fp, fn, tn = (
        weights @ cell.astype(float)
        for cell in (label & predicted, ~label & predicted, label & ~predicted, ~label & ~predicted)
    )
    areas = _areas(label, score, weights)
    return from_counts(tp, fp, fn, tn, *areas, _gaps(label, score, weights))


def from_counts(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray, auroc: np.ndarray, auprc: np.ndarray,
    gaps: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Every metric of `METRICS`, from the counts of the four cells, both areas and the sum of the bins' gaps: (R,)."""
    positives, negatives = tp + fn, tn + fp
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mcc": np.where((positives > 0) & (negatives > 0), _mcc(tp, fp, fn, tn), np.nan),
            "accuracy": (tp + tn) / (positives + negatives),
            "f1": np.where(positives > 0, 2 * tp / (2 * tp + fp + fn), np.nan),
            "precision": np.where(positives > 0, np.where(tp > 0, tp / (tp + fp), 0.0), np.nan),
            "recall": tp / positives,
            "auroc": auroc,
            "auprc": auprc,
            "calibration_error": gaps / (positives + negatives),
        }


def best_threshold(label: np.ndarray, score: np.ndarray) -> float:
    """The score at and above which predicting 1 gives the highest MCC on these pairs: for validation data only.

    Half-way between two neighbouring scores; of equal MCC, the threshold nearest to 0.5.
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last pair of each distinct score
    tp, fp = np.cumsum(label[order] == 1)[last], np.cumsum(label[order] != 1)[last]
    distinct = score[order][last].astype(float)
    candidates = np.append((distinct[:-1] + distinct[1:]) / 2, 0.5)
    above = int((distinct >= 0.5).sum())
    at = np.append(np.arange(len(distinct) - 1), above - 1)
    tp, fp = np.where(at >= 0, tp[at], 0), np.where(at >= 0, fp[at], 0)
    positives, negatives = int((label == 1).sum()), int((label != 1).sum())
    quality = _mcc(tp, fp, positives - tp, negatives - fp)
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(min(candidates[best], key=lambda c: (abs(c - 0.5), c)))


def _mcc(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    """Matthews correlation, 0 where a class is missing among labels or predictions."""
    tp, fp, fn, tn = (np.asarray(count, float) for count in (tp, fp, fn, tn))
    scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found: np.ndarray = np.divide(tp * tn - fp * fn, scale, out=np.zeros_like(scale), where=scale > 0)
    return found


def _areas(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision (the step-wise area), equal scores taken together."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last pair of each distinct score
    positive = np.cumsum(weights[:, order] * label[order], axis=1)[:, last]
    negative = np.cumsum(weights[:, order] * ~label[order], axis=1)[:, last]
    before_p = np.concatenate([np.zeros((len(weights), 1)), positive[:, :-1]], axis=1)
    before_n = np.concatenate([np.zeros((len(weights), 1)), negative[:, :-1]], axis=1)
    all_p, all_n = positive[:, -1], negative[:, -1]
    area = ((negative - before_n) * (positive + before_p) / 2).sum(axis=1)
    drawn = positive + negative
    precision = np.divide(positive, drawn, out=np.zeros_like(drawn), where=drawn > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc, auprc = area / (all_p * all_n), ((positive - before_p) * precision).sum(axis=1) / all_p
    return np.where(all_p * all_n > 0, auroc, np.nan), np.where(all_p > 0, auprc, np.nan)


def calibration_error(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over equal bins of the score (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
    error: np.ndarray = _gaps(label, score, weights) / weights.sum(axis=1)
    return error


def bin_of(score: np.ndarray) -> np.ndarray:
    """(P,) bin of each score, from 0."""
    found: np.ndarray = np.minimum((score * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return found


def _gaps(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) over the bins, the sum of |Σ weight · (label − score)|."""
    bins = bin_of(score)
    gap = np.stack([weights @ np.where(bins == b, label - score, 0.0) for b in range(CALIBRATION_BINS)])
    found: np.ndarray = np.abs(gap).sum(axis=0)
    return found
