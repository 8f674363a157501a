"""Fits the folds of a run by its system; a fold that was finished before is taken from the run's folder."""

from __future__ import annotations

from collections.abc import Sequence

from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.folds import SystemFolds
from crossllm.pipeline.systems.model_folds import ModelFolds
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.inputs import Inputs, TrainOptions
from crossllm.pipeline.training.run_folder import RunFolder, fold_folder
from crossllm.pipeline.training.target import fit_target
from crossllm.pipeline.training.usage import read_usage, write_usage


def run_system(
    folder: RunFolder,
    options: TrainOptions,
    inputs: Inputs,
    material: Material,
    parts: Sequence[Parts],
    digests: Sequence[str],
    scan: str,
    only: int | None = None,
) -> list[FoldResult]:
    """Every fold, fitted and scored.

    Args:
        folder: the run's.
        options: what `train` was asked for, its configuration resolved.
        inputs: what our model is trained on.
        material: what other systems are fitted on, of the same dataset.
        parts: of each fold.
        digests: of each fold (`RunFolder.fold_digest`).
        scan: backend of the scan, `auto` resolved.
        only: the number of a fold, all others being another process's; None: all.

    Raises:
        InputError: something became no number.
        CacheCorrupt: a checkpoint is not what a fold of this run leaves behind.
    """
    if options.config.system == OUR_MODEL:
        ours = ModelFolds(options, inputs, len(parts), folder, scan)
        return fit_folds(ours, folder, material, parts, digests, only)
    return fit_folds(SystemFolds(material, len(parts), folder), folder, material, parts, digests, only)


def fit_folds(
    folds: SystemFolds | ModelFolds,
    folder: RunFolder,
    material: Material,
    parts: Sequence[Parts],
    digests: Sequence[str],
    only: int | None = None,
) -> list[FoldResult]:
    """Every fold, or one: as it was left when it was finished before, or fitted and kept now."""
    dataset, results = material.dataset, []
    where = folder.path if only is None else fold_folder(folder.path, only)
    before = read_usage(where)
    with folds:
        for number, (part, digest) in enumerate(zip(parts, digests, strict=True)):
            if only not in (None, number):
                continue
            target = fit_target(dataset.task, dataset.labels, part.train, material.config)
            result = folder.load_fold(number, len(part.test), target, folds.most_epochs, digest)
            if result is None:
                result = folds.fit(number, part, digest)
                folder.save_fold(number, result, digest)
                write_usage(where, before.plus(folds.usage()))
            folds.passed(number)
            results.append(result)
    return results
