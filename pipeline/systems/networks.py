"""Training of a small network on features of pairs: mini-batches, early stopping on the validation part, best weights.

All randomness is torch's global generator, which the system seeds once a fold (`seed_fold`): initial weights, order of
the pairs and dropout follow from it, so that a fold is the same bit by bit whenever it is fitted on a CPU.

Shapes: P pairs, S distinct sequences of a side, F features, B pairs of a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from crossllm.cache.console.runner import stop_between_records
from crossllm.cache.errors import InputError
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, compute
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.fitted import Fitted, Told
from crossllm.pipeline.training.fold import fold_seed
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.target import Target, fit_target

SCORED_AT_ONCE = 256
"""Pairs."""


class Inputs(NamedTuple):
    """What a network reads of a pair: one row of each block of features."""

    blocks: tuple[Tensor, ...]
    """(S, F) float32, each of the distinct sequences of one side."""
    of_pair: tuple[Tensor, ...]
    """(P,) number of each pair's sequence, for each block."""

    @classmethod
    def standardised(cls, blocks: Sequence[np.ndarray], of_pair: Sequence[np.ndarray], train: np.ndarray) -> Inputs:
        """Of blocks of features (S, F), and for each the number of each pair's sequence, fitted on some pairs."""
        found = (standardised(block, rows, train) for block, rows in zip(blocks, of_pair, strict=True))
        return cls(tuple(found), tuple(map(torch.from_numpy, of_pair)))

    def to(self, device: torch.device) -> Inputs:
        """The same on a device."""
        return Inputs(tuple(block.to(device) for block in self.blocks), tuple(rows.to(device) for rows in self.of_pair))

    def of(self, pairs: Tensor) -> list[Tensor]:
        """(B, F) of each block."""
        pairs = pairs.to(self.blocks[0].device)
        return [block[rows[pairs]] for block, rows in zip(self.blocks, self.of_pair, strict=True)]


class Schedule(NamedTuple):
    """How long and by what a network is trained."""

    optimiser: Callable[[Iterable[nn.Parameter]], Optimizer]
    epochs: int
    """At most."""
    batch: int
    patience: int = 10
    """Epochs without a better one after which it stops."""


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """At the rate that most recipes have."""
    return torch.optim.Adam(parameters, lr=1e-3)


class Trained(NamedTuple):
    """What came of it; the network has the weights of the best epoch."""

    best_epoch: int
    history: list[Epoch]


def seed_fold(seed: int, fold: int) -> None:
    """Seed torch's global generator for one fold, as the model's folds are seeded."""
    torch.manual_seed(fold_seed(seed, fold))


def standardised(features: np.ndarray, of_pair: np.ndarray, train: np.ndarray) -> Tensor:
    """(S, F) float32: each column less its mean and over its deviation, both over the *training pairs* alone.

    A sequence counts as often as training pairs have it, as in the originals, which standardise rows of pairs; a column
    that is constant there is divided by 1.
    """
    weight = np.bincount(of_pair[train], minlength=len(features)) / len(train)
    used = np.flatnonzero(weight)
    weight, rows = weight[used], features[used].astype(np.float64)
    mean = weight @ rows
    std = np.sqrt(weight @ np.square(rows - mean))
    std[std <= 1e-12 * np.abs(mean)] = 1.0  # what rounding leaves of no spread at all
    return torch.from_numpy(((features - mean) / np.where(std > 0, std, 1.0)).astype(np.float32))


def train_network(
    network: nn.Module,
    inputs: Inputs,
    material: Material,
    parts: Parts,
    schedule: Schedule,
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Fit on the training part until the validation part gets no better; leave the weights of its best epoch.

    Better is a higher AUROC, or Pearson's correlation: over-confident networks of recipes rank well long after their
    loss has risen.  Of equals, and where the validation part has one class alone, the lower loss is better.

    SIGTERM and SIGINT take effect between two batches.

    Args:
        network: is called with the batch's blocks, gives (B,) logits or scaled affinities.
        inputs: of all pairs.
        material: its task and labels; those of test pairs are not read.
        parts: of the fold.
        schedule: its optimiser, epochs and batches.
        on_epoch: called after every epoch.

    Raises:
        InputError: a loss that is no number.
    """
    labels, target = material.dataset.labels, _target(material, parts)
    network.to(inputs.blocks[0].device)
    optimiser = schedule.optimiser(network.parameters())
    history: list[Epoch] = []
    best, best_cost, best_state = 0, (math.inf, math.inf), copy.deepcopy(network.state_dict())
    with stop_between_records() as stopped:
        while len(history) < schedule.epochs and len(history) - best < schedule.patience and not stopped():
            train_loss = _train_epoch(network, inputs, labels, parts.train, target, schedule.batch, optimiser, stopped)
            output = outputs(network, inputs, parts.validation)
            loss = float(_loss(target, output, _scaled(target, labels[parts.validation])))
            if not (math.isfinite(train_loss) and math.isfinite(loss)):
                raise InputError(f"the losses became {train_loss} and {loss}; look for a label far off the others")
            quality = _quality(target, labels[parts.validation], output)
            history.append(Epoch(len(history) + 1, train_loss, loss, quality))
            cost = (0.0 if quality is None else -quality, loss)
            if cost < best_cost:
                best, best_cost, best_state = len(history), cost, copy.deepcopy(network.state_dict())
            on_epoch(history[-1])
    network.load_state_dict(best_state)
    return Trained(best, history)


def scored(network: nn.Module, inputs: Inputs, material: Material, parts: Parts, trained: Trained) -> Fitted:
    """A trained network's scores of the validation and the test part."""
    target = _target(material, parts)
    validation, test = (target.score(outputs(network, inputs, pairs)) for pairs in (parts.validation, parts.test))
    return Fitted(validation, test, trained.best_epoch, trained.history)


def epochs_told(told: Told, schedule: Schedule, begin: float = 0.0, end: float = 1.0) -> Callable[[Epoch], None]:
    """Tell of every epoch of a schedule, whose work is this stretch of the fold's."""

    def tell(epoch: Epoch) -> None:
        text = f"epoch {epoch.epoch}, validation loss {epoch.validation_loss:.4f}"
        told(text, begin + (end - begin) * epoch.epoch / schedule.epochs)

    return tell


def outputs(network: nn.Module, inputs: Inputs, pairs: np.ndarray) -> Tensor:
    """(P,) logits or scaled affinities of these pairs; no dropout."""
    network.eval()
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(pairs), SCORED_AT_ONCE)
        return torch.cat([network(*inputs.of(part)).cpu() for part in parts])


def shuffled(pairs: Tensor, batch: int) -> list[Tensor]:
    """The pairs in random order, in batches; a last one of a single pair, which has no variance, joins another."""
    drawn = pairs[torch.randperm(len(pairs)).to(pairs.device)]
    batches = list(torch.split(drawn, batch))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _train_epoch(
    network: nn.Module,
    inputs: Inputs,
    labels: np.ndarray,
    pairs: np.ndarray,
    target: Target,
    batch: int,
    optimiser: Optimizer,
    stopped: Callable[[], bool],
) -> float:
    """One pass over the training pairs; their mean loss."""
    network.train()
    total = 0.0
    for some in shuffled(torch.from_numpy(pairs), batch):
        if stopped():
            break  # leaving the caller's block raises what the signal stands for
        output = network(*inputs.of(some))
        loss = _loss(target, output, _scaled(target, labels[some.numpy()]).to(output.device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += loss.item() * len(some)
    return total / len(pairs)


def _loss(target: Target, output: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, or the squared error of scaled affinities."""
    if target.task == "regression":
        return F.mse_loss(output, label)
    return F.binary_cross_entropy_with_logits(output, label)


def _target(material: Material, parts: Parts) -> Target:
    """The task, and how the training part's affinities are scaled."""
    return fit_target(material.dataset.task, material.dataset.labels, parts.train, material.config)


def _scaled(target: Target, labels: np.ndarray) -> Tensor:
    return torch.from_numpy(target.scale(labels)).float()


def _quality(target: Target, label: np.ndarray, output: Tensor) -> float | None:
    """AUROC, or Pearson's correlation; None where it is undefined."""
    score = target.score(output)
    name = "auroc" if target.task == "classification" else METRICS[target.task][0]
    found = float(compute(target.task, Scored(label, score, score >= 0.5), np.ones((1, len(label))))[name][0])
    return found if math.isfinite(found) else None
