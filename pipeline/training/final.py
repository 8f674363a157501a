"""One model on all pairs, after the folds have said how long to train and how to read its scores: `train --final`.

It has no pair left to choose anything on.  Each expert's epoch is the median of the folds' best ones, and the share of
the summaries in the mixture the mean of the folds'; its threshold and its
calibration, or its interval, are fitted on the folds' predictions of their test pairs: of models like it, on pairs that
these had not seen.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np
import torch

from crossllm.cache.console.messages import note
from crossllm.pipeline.ranks.ranks import ALONE, Ranks
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.decision import decide
from crossllm.pipeline.training.fold import FoldResult, fit_fold, fold_seed
from crossllm.pipeline.training.run_folder import FINAL, RunFolder
from crossllm.pipeline.training.steps import Settled


def fit_final(
    folder: RunFolder,
    batches: PairBatches,
    parts: Sequence[Parts],
    results: Sequence[FoldResult],
    config: TrainConfig,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> None:
    """Fit and keep it, unless the folder has it; a killed fit goes on.

    Args:
        folder: of the run.
        batches: over the whole dataset.
        parts: of each fold.
        results: of each fold; their scores of the test parts.
        config: the run's.
        device: where to compute.
        ranks: the processes that fit it together.
    """
    if folder.has_final():
        return
    of_experts = zip(*(result.best_epochs for result in results), strict=True)
    epochs = [max(1, round(statistics.median(of_one))) for of_one in of_experts]
    shares = [result.summary_share for result in results if result.summary_share is not None]
    settled = Settled(epochs, statistics.fmean(shares) if shares else None)
    every = np.arange(len(batches.labels))
    note(f"note: --final: one model on all {len(every):,} pairs, {max(epochs)} epochs as the folds' best (median)")
    length, whole = of_final(config, settled), all_pairs(batches)
    digest = folder.fold_digest([("all", str(len(every)))])
    keeper, seed = folder.keeper(FINAL, digest), fold_seed(config.seed, len(parts))
    ranks.tell({"final": list(settled)})
    fitted = fit_fold(batches, whole, length, seed, device, lambda _: None, keeper, settled, ranks)
    label = np.concatenate([batches.labels[part.test] for part in parts])
    score = np.concatenate([result.score for result in results])
    decided = decide(batches.task, label, score, length)
    fitted = fitted._replace(
        threshold=decided.threshold, calibration=decided.calibration, half_width=decided.half_width
    )
    folder.save_fold(FINAL, fitted, digest)


def of_final(config: TrainConfig, settled: Settled) -> TrainConfig:
    """The run's settings as the model of all pairs has them."""
    epochs = max(settled.epochs)
    return dataclasses.replace(config, epochs=epochs, patience=epochs, protocol="honest")


def all_pairs(batches: PairBatches) -> Parts:
    """All of them to train on.  The same stand for a validation part, which chooses nothing."""
    every = np.arange(len(batches.labels))
    return Parts(every, every, every[:0])
