"""Rare positives and few pairs: the weights of the classes, the draw, the smoothed choice, and whole trainings."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import QUICK, embedded_demo

from crossllm.model.losses import focal_loss
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig, resolve
from crossllm.pipeline.training.fold import fit_fold
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.target import fit_target


def test_focal_alpha_auto_is_the_training_parts_share_of_negatives(rng: np.random.Generator) -> None:
    labels = np.array([1.0] + [0.0] * 9 + [1.0] * 10)
    train = np.arange(10)
    target = fit_target("classification", labels, train, TrainConfig(focal_alpha="auto"))
    assert target.alpha == pytest.approx(0.9)
    logit, label = torch.from_numpy(rng.normal(size=10)).float(), torch.from_numpy(labels[train]).float()
    found = target.loss(logit, label, TrainConfig(focal_alpha="auto"))
    assert float(found) == pytest.approx(float(focal_loss(logit, label, 2.0, 0.9)))
    assert fit_target("classification", labels, train, TrainConfig()).alpha == 0.5


def test_focal_alpha_takes_a_number_or_the_word() -> None:
    assert resolve(sets=["focal_alpha=auto"]).focal_alpha == "auto"
    assert resolve(sets=["focal_alpha=0.25"]).focal_alpha == 0.25
    with pytest.raises(Exception, match="a number or auto is expected"):
        resolve(sets=["focal_alpha=automatic"])
    with pytest.raises(Exception, match="out of range"):
        resolve(sets=["focal_alpha=2"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_demo(tmp_path_factory.mktemp("rare") / "demo", entities=60, pairs=800)


@pytest.mark.slow
@pytest.mark.parametrize("sets", [{"focal_alpha": "auto"}, {"balance": True}])
def test_one_positive_among_twenty_negatives_is_trained_on(demo: Path, sets: dict[str, Any]) -> None:
    config = dataclasses.replace(QUICK, epochs=6, lr=3e-3)
    inputs = open_inputs(TrainOptions(demo, config))
    labels = inputs.dataset.labels
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    parts = Parts(*(_one_in_twenty(part, labels) for part in cut_parts(inputs.dataset, inputs.folds, 0, 0.15, 0)))
    config = dataclasses.replace(config, **sets)
    found = fit_fold(batches, parts, config, 1, torch.device("cpu"), lambda _epoch: None)
    assert found.threshold is not None
    assert 0 < (found.score >= found.threshold).mean() < 1, "not all pairs one class"
    assert found.history[-1].train_loss < found.history[0].train_loss


def _one_in_twenty(part: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The negatives of a part, and a positive for each twenty of them."""
    negative, positive = (part[labels[part] == value] for value in (0, 1))
    return np.concatenate([negative, positive[: max(1, len(negative) // 20)]])


@pytest.mark.slow
def test_two_hundred_pairs_are_trained_on_and_the_smoothed_loss_chooses(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=40, pairs=200)
    model = dataclasses.replace(QUICK.model, summary_width=0)
    config = dataclasses.replace(QUICK, epochs=5, smooth=3, lr=1e-2, model=model)
    inputs = open_inputs(TrainOptions(folder, config))
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    parts = cut_parts(inputs.dataset, inputs.folds, 0, config.validation, 0)
    found = fit_fold(batches, parts, config, 1, torch.device("cpu"), lambda _epoch: None)
    losses = [epoch.validation_loss for epoch in found.history]
    assert found.summary_share is None
    means = [np.mean(losses[max(0, n - 2) : n + 1]) for n in range(len(losses))]
    assert found.best_epoch == int(np.argmin(means)) + 1
    assert all(map(math.isfinite, losses))
