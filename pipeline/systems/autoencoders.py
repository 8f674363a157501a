"""Stacked autoencoders, trained layer by layer on features without labels (IPMiner's, RPITER's and RNAincoder's kind).

Shapes: P pairs, F features, D width of a code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossllm.cache.console.runner import stop_between_records
from crossllm.pipeline.systems.layers import glorot
from crossllm.pipeline.systems.networks import shuffled

DROPOUT = 0.2


def greedy_encoders(
    rows: Tensor, pairs: Tensor, widths: Sequence[int], epochs: int, batch: int, dropout: float = DROPOUT
) -> list[nn.Linear]:
    """A linear layer for each of `widths`; behind each stands a sigmoid.

    Layer after layer is trained with a sigmoid decoder of its own, dropout on the decoder's output, mean squared error
    and Adam; the next learns on its codes.  The number of epochs is fixed.  Draws from torch's global generator.

    Args:
        rows: (S, F) standardised features of a side's distinct sequences.
        pairs: (P,) number of the sequence of each training pair: it is learned from as often as they have it.
        widths: D of each layer.
        epochs: of each layer.
        batch: pairs of a step.
        dropout: share of the decoder's outputs that is dropped.
    """
    layers: list[nn.Linear] = []
    for width in widths:
        encoder, decoder = nn.Linear(rows.shape[1], width), nn.Linear(width, rows.shape[1])
        both = glorot(nn.Sequential(encoder, nn.Sigmoid(), decoder, nn.Sigmoid(), nn.Dropout(dropout))).to(rows.device)
        optimiser = torch.optim.Adam(both.parameters(), lr=1e-3)
        with stop_between_records() as stopped:
            for _ in range(epochs):
                if stopped():
                    break
                for some in shuffled(pairs, batch):
                    loss = F.mse_loss(both(rows[some]), rows[some])
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
        layers.append(encoder)
        rows = encoder(rows).sigmoid().detach()
    return layers
