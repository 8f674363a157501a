"""A step of several processes on one batch: the loss of all its pairs, and the gradient that one process would have.

Each process computes the outputs of its own pairs and gets those of the others.  Each then has the loss of the whole
batch, whatever it is of the outputs, a mean or a correlation, and its slope at the own outputs.  What flows back from
there is a process's part of the gradient of the parameters; the sum over the processes is the gradient.

Shapes: N outputs a pair, P pairs of the batch, p of a process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossllm.pipeline.ranks.ranks import Ranks


def whole_outputs(ranks: Ranks, outputs: Tensor, place: slice, pairs: int, *, counted: bool) -> Tensor:
    """(N, P) outputs of all pairs; gradients flow to this process's own (N, p).

    Args:
        ranks: the processes.
        outputs: (N, p).
        place: of the own pairs in the batch.
        pairs: P.
        counted: False: the own are another process's too, and it is that one which counts them.
    """
    held = outputs.new_zeros(len(outputs), pairs)
    if counted:
        held[:, place] = outputs.detach()
    ranks.sum(held)
    if not counted:
        return held + 0 * outputs.sum()  # its parameters have a gradient of 0, and not none
    return torch.cat([held[:, : place.start], outputs, held[:, place.stop :]], 1)


def sum_gradients(ranks: Ranks, model: nn.Module) -> None:
    """The gradient of the whole batch in every process, in place of its part."""
    if ranks.count == 1:
        return
    slopes = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not slopes:
        return
    flat = ranks.sum(torch.cat([slope.reshape(-1) for slope in slopes]))
    for slope, own in zip(slopes, torch.split(flat, [slope.numel() for slope in slopes]), strict=True):
        slope.copy_(own.view_as(slope))
