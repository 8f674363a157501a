"""`biollmnet`: the mean rows of both partners, each through a layer of its own, mixed by a gate.

BioLLMNet (Abrar et al., Brief Bioinform 2025;26:bbaf549; abrarrahmanabir/BioLLMNet@9bc4dd6), published on RPI1460: MCC
0.848, by the best of 100 epochs on the scored fold.

- A side: mean of its rows in the cache → 512, ReLU, dropout 0.1.
- Gate: g · a + (1 − g) · b.  `gate = static`: g = σ(θ), the same for all pairs, as in the notebooks that print the
  tables; `gate = input`: g = σ(W [a; b] + c), as in the paper's equations and the repository's evaluation script.
- 512 → 64, ReLU, dropout 0.5 → 1.  Adam 10⁻³, batches of 32, at most 100 epochs.

What differs: rows are of whatever encoder made the cache, and are standardised on the training part.  The epoch is the
best on validation.  Affinities: squared error of affinities scaled by the training part, not divided by ten; 512 units
a side, not 256.

Not verified: the published score, whose folds are 10 random ones of another draw, on RNA-FM and ProtT5 rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.fitted import Fitted, Told
from crossllm.pipeline.systems.networks import Inputs, Schedule, adam, epochs_told, scored, seed_fold, train_network

HIDDEN = 512
SCHEDULE = Schedule(adam, epochs=100, batch=32, patience=20)


class StaticGate(nn.Module):
    """g · a + (1 − g) · b with one g for all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.rand(HIDDEN))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, 512) of each → (B, 512)."""
        return torch.lerp(b, a, self.theta.sigmoid().expand_as(a))


class InputGate(nn.Module):
    """g · a + (1 − g) · b with a g that depends on both."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, 512) of each → (B, 512)."""
        return torch.lerp(b, a, self.gate(torch.cat([a, b], dim=1)).sigmoid())


GATES = {"static": StaticGate, "input": InputGate}


class BioLlmNet(nn.Module):
    """The network.

    Args:
        widths: D of a's and of b's rows.
        gate: `static` or `input`.
    """

    def __init__(self, widths: tuple[int, int], gate: str) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(0.1)) for width in widths)
        self.gate = GATES[gate]()
        self.last = nn.Sequential(nn.Linear(HIDDEN, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, D) of each side → (B,) logits or scaled affinities."""
        output: Tensor = self.last(self.gate(self.a(a), self.b(b)))
        return output.squeeze(1)


def biollmnet(material: Material, parts: Parts, number: int, told: Told) -> Fitted:
    """Fit one fold."""
    seed_fold(material.config.seed, number)
    inputs = Inputs.standardised(material.pooled, [side.of_pair for side in material.sides], parts.train)
    inputs = inputs.to(material.device)
    first, second = (block.shape[1] for block in inputs.blocks)
    network = BioLlmNet((first, second), material.config.gate)
    trained = train_network(network, inputs, material, parts, SCHEDULE, epochs_told(told, SCHEDULE))
    return scored(network, inputs, material, parts, trained)
