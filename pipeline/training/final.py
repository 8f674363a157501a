"""One model on all pairs, after the folds have said how long to train and how to read its scores: `train --final`.

It has no pair left to choose anything on.  Its epochs are the median of the folds' best ones; its threshold and its
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
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.decision import decide
from crossllm.pipeline.training.fold import FoldResult, fit_fold, fold_seed
from crossllm.pipeline.training.run_folder import FINAL, RunFolder


def fit_final(
    folder: RunFolder,
    batches: PairBatches,
    parts: Sequence[Parts],
    results: Sequence[FoldResult],
    config: TrainConfig,
    device: torch.device,
) -> None:
    """Fit and keep it, unless the folder has it; a killed fit goes on.

    Args:
        folder: of the run.
        batches: over the whole dataset.
        parts: of each fold.
        results: of each fold; their scores of the test parts.
        config: the run's.
        device: where to compute.
    """
    if folder.has_final():
        return
    epochs = max(1, round(statistics.median(result.best_epoch for result in results)))
    every = np.arange(len(batches.labels))
    note(f"note: --final: one model on all {len(every):,} pairs, {epochs} epochs as the folds' best (median)")
    # The same pairs stand for a validation part: which epoch is taken is then a matter of the training loss alone.
    settled = dataclasses.replace(config, epochs=epochs, patience=epochs, protocol="honest")
    digest = folder.fold_digest([("all", str(len(every)))])
    whole = Parts(every, every, every[:0])
    keeper = folder.keeper(FINAL, digest)
    fitted = fit_fold(batches, whole, settled, fold_seed(config.seed, len(parts)), device, lambda _: None, keeper)
    label = np.concatenate([batches.labels[part.test] for part in parts])
    score = np.concatenate([result.score for result in results])
    decided = decide(batches.task, label, score, settled)
    fitted = fitted._replace(
        threshold=decided.threshold, calibration=decided.calibration, half_width=decided.half_width
    )
    folder.save_fold(FINAL, fitted, digest)
