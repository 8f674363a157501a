"""One fold: fit on its training part, choose epoch and threshold on its validation part, score its test part once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.errors import InputError
from crossllm.model.interaction import InteractionModel, joins_pairs
from crossllm.model.losses import affinity_loss, bce_loss, focal_loss
from crossllm.model.standardise import Standardise
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.classification import best_threshold
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, compute
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.sampler import Bounds, ordered_batches, shuffled_batches


class Epoch(NamedTuple):
    """One line of `history.csv`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float | None
    """AUROC, or Pearson's correlation; None where the validation part has one class only."""


class Target(NamedTuple):
    """What the model's output stands for: a logit, or an affinity scaled by the training part's mean and deviation."""

    task: Task
    mean: float = 0.0
    std: float = 1.0
    mse_weight: float = 0.5

    def scale(self, labels: np.ndarray) -> np.ndarray:
        """Labels as the loss takes them, in float64: 10⁷ ± 0.3 is scaled before anything is rounded to float32."""
        scaled: np.ndarray = (labels - self.mean) / self.std
        return scaled

    def loss(self, output: Tensor, label: Tensor, config: TrainConfig) -> Tensor:
        """Loss of the model's output against scaled labels."""
        if self.task == "regression":
            return affinity_loss(output, label, self.mse_weight)
        if config.loss == "bce":
            return bce_loss(output, label)
        return focal_loss(output, label, config.focal_gamma, config.focal_alpha)

    def score(self, output: Tensor) -> np.ndarray:
        """(P,) scores from 0 to 1, float32, or affinities float64 in the table's unit.

        A score ranks pairs; trained with the focal loss it is no probability (docs/outputs.md).
        """
        if self.task == "classification":
            score: np.ndarray = output.sigmoid().numpy()
            return score
        affinity: np.ndarray = output.double().numpy() * self.std + self.mean
        return affinity


class FoldResult(NamedTuple):
    """What a fold leaves behind."""

    score: np.ndarray
    """(P_test,) score or affinity of each test pair, in the order of the fold's test part."""
    threshold: float | None
    """Score from which on a pair is predicted 1, chosen on the validation part; None in a regression."""
    target: Target
    """What the scaling was: a checkpoint needs it to give affinities."""
    best_epoch: int
    history: list[Epoch]
    state: dict[str, Tensor]
    """Weights of the best epoch."""


def fold_seed(seed: int, fold: int) -> int:
    """Seed of a fold: its own, so that a fold's numbers do not depend on which folds ran before it."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def fit_target(task: Task, labels: np.ndarray, train: np.ndarray, config: TrainConfig) -> Target:
    """The scaling of an affinity, from the training part alone."""
    if task == "classification":
        return Target(task)
    mean, std = float(labels[train].mean()), float(labels[train].std())
    constant = std <= 1e-12 * float(np.abs(labels[train]).max())  # what rounding leaves of no spread at all
    return Target(task, mean, 1.0 if constant else std, config.mse_weight)


def fit_fold(
    batches: PairBatches,
    parts: Parts,
    config: TrainConfig,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> FoldResult:
    """Train one model from scratch.

    Args:
        batches: over the whole dataset.
        parts: pair numbers of this fold.
        config: the run's.
        seed: this fold's.
        device: where to compute.
        on_epoch: called after every epoch.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = _new_model(batches, parts, config).to(device)
    optimiser = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.lr)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / config.warmup_steps))
    labels = batches.labels
    target = fit_target(batches.task, labels, parts.train, config)
    scaled = target.scale(labels)
    batches = batches.with_labels(scaled)
    history: list[Epoch] = []
    best, best_epoch, state = math.inf, 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, config.epochs + 1):
        epoch_parts = shuffled_batches(parts.train, batches.sides, bounds(config), config.sharing, rng)
        train_loss = _train_epoch(model, batches, target, epoch_parts, config, optimiser, warmup, device)
        output = predict(model, batches, parts.validation, config, device)
        loss = float(target.loss(output, torch.from_numpy(scaled[parts.validation]).float(), config))
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss became {loss}; use a lower --lr, and look for a label far off the others"
            )
        history.append(Epoch(epoch, train_loss, loss, _quality(target, labels[parts.validation], output)))
        on_epoch(history[-1])
        if loss < best:
            best, best_epoch, state = loss, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(state)
    threshold = None
    if target.task == "classification":
        validation = target.score(predict(model, batches, parts.validation, config, device))
        threshold = best_threshold(labels[parts.validation], validation)
    score = target.score(predict(model, batches, parts.test, config, device))
    return FoldResult(score, threshold, target, best_epoch, history, {k: v.cpu() for k, v in state.items()})


def _new_model(batches: PairBatches, parts: Parts, config: TrainConfig) -> InteractionModel:
    """A model of random weights that knows the moments of its training part's tokens."""
    model = InteractionModel(*batches.dims, config.model, config.scan)
    sides = [layer for layer in (model.standardise_a, model.standardise_b) if isinstance(layer, Standardise)]
    if sides:
        for layer, moments in zip(sides, batches.moments(parts.train), strict=True):
            layer.fit(moments)
    return model


def _decay_groups(model: InteractionModel, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on biases, norms and D, nor on A_log, whose decay would move A towards −1."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim > 1 and not name.endswith("A_log") else others).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def predict(
    model: InteractionModel, batches: PairBatches, pairs: np.ndarray, config: TrainConfig, device: torch.device
) -> Tensor:
    """(P,) logits or scaled affinities of these pairs on the CPU, in their order; no noise, no dropout."""
    model.eval()
    places = ordered_batches(np.arange(len(pairs)), [side.at(pairs) for side in batches.sides], bounds(config))
    outputs = torch.empty(len(pairs))
    with torch.inference_mode():
        stream = batches.stream([pairs[part] for part in places])
        for part, batch in zip(places, stream, strict=True):
            with autocast(config, device):
                output = model(batch.to(device))
            outputs[torch.from_numpy(part)] = output.float().cpu()
    return outputs


def bounds(config: TrainConfig) -> Bounds:
    """Of a batch."""
    # The kernel of mamba_ssm takes no states, which the mixer's shortcut hands on.
    joined = joins_pairs(config.model) or config.scan == "mamba_ssm"
    return Bounds(config.batch_pairs, config.batch_tokens, joined)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the type of `compute`; parameters, scan and sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.compute == "bfloat16")


def _train_epoch(
    model: InteractionModel,
    batches: PairBatches,
    target: Target,
    parts: list[np.ndarray],
    config: TrainConfig,
    optimiser: torch.optim.Optimizer,
    warmup: torch.optim.lr_scheduler.LambdaLR,
    device: torch.device,
) -> float:
    """One pass over the training pairs, batch by batch; their mean loss."""
    model.train()
    total = 0.0
    for batch in batches.stream(parts):
        batch = batch.to(device)
        with autocast(config, device):
            output = model(batch)
        loss = target.loss(output.float(), batch.label, config)
        if not torch.isfinite(loss):
            raise InputError(f"the training loss became {loss.item()}; use a lower --lr or a larger --batch-pairs")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        warmup.step()
        total += loss.item() * len(batch.label)
    return total / sum(map(len, parts))


def _quality(target: Target, label: np.ndarray, output: Tensor) -> float | None:
    """AUROC, or Pearson's correlation, of the validation part."""
    score = target.score(output)
    name = "auroc" if target.task == "classification" else METRICS[target.task][0]
    found = float(compute(target.task, Scored(label, score, score >= 0.5), np.ones((1, len(label))))[name][0])
    return found if math.isfinite(found) else None
