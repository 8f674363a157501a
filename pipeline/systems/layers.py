"""Layers as recipes written in Keras have them: their normalisation, initial weights and two-class output.

Shapes: B pairs of a batch.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
KERAS_EPSILON = 1e-3
"""Of batch normalisation."""


class TwoClasses(nn.Linear):
    """The last layer of a recipe with two softmax outputs: gives the logit of class 1, their difference.

    The binary cross-entropy of the difference is the cross-entropy of the two, weights and gradients alike.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)

    def forward(self, input: Tensor) -> Tensor:
        """(B, width) → (B,)."""
        both = super().forward(input)
        return both[:, 1] - both[:, 0]


def norm(width: int) -> nn.BatchNorm1d:
    """Batch normalisation with Keras's ε; its running moments follow faster than there, as runs are short."""
    return nn.BatchNorm1d(width, eps=KERAS_EPSILON)


def glorot(network: M) -> M:
    """The network with initial weights as Keras draws them: Glorot's uniform, biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
