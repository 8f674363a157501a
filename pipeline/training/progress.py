"""How far a fold has come: all that the rest of its training depends on, as numbers and tensors and back.

With it a fold that was cut off between any two steps gives the same loss trace and weights as one that was not, bit by
bit on a CPU.  The order of an epoch's batches is drawn when it begins, so its place is the generator's state at that
moment and the number of steps done.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.model.ensemble import Ensemble
from crossllm.model.interaction import expert_of
from crossllm.model.optimiser import AdamW
from crossllm.pipeline.training.keeping import Saved


class Epoch(NamedTuple):
    """One line of `history.csv`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float | None
    """AUROC, or Pearson's correlation; None where the validation part has one class only."""


@dataclass
class Progress:
    """A fold in training; whole whenever no step is under way."""

    model: Ensemble
    optimiser: AdamW
    rng: np.random.Generator
    """Draws the order of the pairs."""
    device: torch.device
    ema: float = 0.0
    """Share of its old weights that the average keeps a step; 0: there is no average."""
    average: Ensemble | None = field(init=False)
    """Moving average of the weights."""
    best_state: dict[str, Tensor] = field(default_factory=dict)
    """Of each expert the weights of its best epoch so far."""
    epoch: int = 1
    """The one under way, from 1."""
    step: int = 0
    """Steps done in it."""
    total: float = 0.0
    """Sum of their losses, each times its pairs."""
    order: Mapping[str, Any] = field(init=False)
    """The generator's state when the epoch began."""
    costs: list[float] = field(default_factory=list)
    """(E,) what each expert's best epoch was chosen by; less is better."""
    best_epochs: list[int] = field(default_factory=list)
    """(E,); empty: no epoch is done yet."""
    losses: list[list[float]] = field(default_factory=list)
    """Of each epoch the validation loss of each expert."""
    history: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = self.rng.bit_generator.state
        self.average = copy.deepcopy(self.model).requires_grad_(False) if self.ema else None

    @property
    def judged(self) -> Ensemble:
        """The weights that are validated and kept: the average, where there is one."""
        return self.model if self.average is None else self.average

    def weights(self) -> list[Tensor]:
        """All weights, those of the average too."""
        models = [self.model] if self.average is None else [self.model, self.average]
        return [tensor for model in models for tensor in model.state_dict().values()]

    def end_step(self, loss: float) -> None:
        """Count a step, whose loss times pairs is given; the average moves on."""
        self.step, self.total = self.step + 1, self.total + loss
        if self.average is not None:
            done = self.optimiser.done
            keep = min(self.ema, done / (done + 10))  # the first steps' random weights are soon forgotten
            with torch.no_grad():
                for own, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    own.lerp_(new, 1 - keep)

    def end_epoch(self, done: Epoch, losses: list[float], costs: list[float]) -> None:
        """Close the epoch under way; of each expert its weights are kept if it cost the least so far.

        Args:
            done: the epoch.
            losses: (E,) validation loss of each expert.
            costs: (E,) what each is chosen by.
        """
        first = not self.history
        self.history.append(done)
        self.losses.append(losses)
        if first:
            self.costs, self.best_epochs = [math.inf] * len(costs), [0] * len(costs)
        better = {n for n, (new, old) in enumerate(zip(costs, self.costs, strict=True)) if first or new < old}
        for number in better:
            self.costs[number], self.best_epochs[number] = costs[number], done.epoch
        for name, tensor in self.judged.state_dict().items():
            if expert_of(name) in better:
                self.best_state[name] = tensor.clone()
        self.epoch, self.step, self.total = done.epoch + 1, 0, 0.0
        self.order = self.rng.bit_generator.state

    def to_saved(self) -> Saved:
        """All of it."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in self.optimiser.state().items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        numbers = {
            "epoch": self.epoch,
            "step": self.step,
            "total": self.total,
            "order": self.order,
            "steps": self.optimiser.done,
            "costs": [cost if math.isfinite(cost) else None for cost in self.costs],
            "best_epochs": self.best_epochs,
            "losses": self.losses,
            "history": [list(epoch) for epoch in self.history],
        }
        return Saved(numbers, tensors)

    def restore(self, saved: Saved) -> None:
        """Take all of it from `to_saved` of the same fold."""
        numbers, tensors = saved
        self.model.load_state_dict(_below("model.", tensors))
        if self.average is not None:
            self.average.load_state_dict(_below("average.", tensors))
        self.best_state = {name: tensor.to(self.device) for name, tensor in _below("best.", tensors).items()}
        self.optimiser.restore(_below("optimiser.", tensors), numbers["steps"])
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.order = self.rng.bit_generator.state = numbers["order"]
        self.epoch, self.step, self.total = numbers["epoch"], numbers["step"], numbers["total"]
        self.costs = [math.inf if cost is None else cost for cost in numbers["costs"]]
        self.best_epochs, self.losses = numbers["best_epochs"], numbers["losses"]
        self.history = [Epoch(*values) for values in numbers["history"]]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
