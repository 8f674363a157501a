"""How long a recurrent encoder takes: the steps of all batches, and what a step costs on this machine.

A step of n sequences takes a + b n seconds, a for reading the matrices, which every step does.  So all steps together
take their number times what a step of their mean n takes; that is measured, with random weights of the model's shape.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from crossllm.cache.store.recipe import Recipe

if TYPE_CHECKING:
    from crossllm.embed.engine.mlstm import MultiplicativeLSTM

MOST_LANES = 256
"""Sequences that are timed together; of more a step takes longer in proportion."""
ENOUGH = 0.4
"""Seconds after which a measurement is taken as it is."""
REPEATS = 3


def seconds_of_steps(recipe: Recipe, lengths: np.ndarray, device: str, batch_tokens: int) -> float:
    """Seconds that encoding sequences of these lengths takes."""
    from crossllm.embed.engine.device import device_of

    device_of(device)
    steps = count_steps(lengths, batch_tokens)
    together = int(lengths.sum()) / steps
    lanes = max(1, min(MOST_LANES, round(together)))
    return steps * _step_seconds(_random_model(recipe, device), lanes, batch_tokens) * together / lanes


def count_steps(lengths: np.ndarray, batch_tokens: int) -> int:
    """Steps of batches of sequences sorted by length, at most `batch_tokens` each: a batch has its longest's."""
    steps, tokens, longest = 0, 0, 0
    for length in np.sort(lengths).tolist():
        if tokens and tokens + length > batch_tokens:
            steps, tokens = steps + longest, 0
        tokens, longest = tokens + length, length
    return steps + longest


def _random_model(recipe: Recipe, device: str) -> MultiplicativeLSTM:
    """A model of an encoder's shape.  Its weights are one random vector over and over: nothing else is drawn."""
    import torch

    from crossllm.embed.encoders.unirep import START, stack_of
    from crossllm.embed.engine.mlstm import MultiplicativeLSTM, expected_shapes

    stack = stack_of(recipe.encoder)
    vector = 0.02 * torch.randn(4 * stack.width, generator=torch.Generator().manual_seed(0))
    tensors = {name: vector[: shape[-1]].expand(shape) for name, shape in expected_shapes(stack).items()}
    return MultiplicativeLSTM(tensors, stack, START, getattr(torch, recipe.compute), torch.device(device))


def _step_seconds(model: MultiplicativeLSTM, lanes: int, batch_tokens: int) -> float:
    """Seconds of a step of so many sequences; they get longer until that can be told."""
    length, most = 2, max(2, batch_tokens // lanes)
    took = _seconds(model, lanes, length)  # only warms up
    while True:
        took = _seconds(model, lanes, length)
        if took >= ENOUGH / REPEATS or 2 * length > most:
            break
        length = min(most, length * (2 if took > ENOUGH / 8 else 4))
    return min(took, *(_seconds(model, lanes, length) for _ in range(REPEATS - 1))) / length


def _seconds(model: MultiplicativeLSTM, lanes: int, length: int) -> float:
    import torch

    ids = torch.ones(lanes * length, dtype=torch.int64, device=model.device)
    begun = time.perf_counter()
    model.rows(ids, [length] * lanes)[-1, -1].item()  # which waits for the device
    return time.perf_counter() - begun
