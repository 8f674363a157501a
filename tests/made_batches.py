"""Small random batches of pairs."""

from __future__ import annotations

import numpy as np
import torch

from crossllm.model import Batch, Packed
from crossllm.model.batch import gather


def packed(rng: np.random.Generator, lengths: list[int], width: int) -> Packed:
    rows = torch.from_numpy(rng.normal(size=(sum(lengths), width)).astype(np.float32))
    return Packed(rows, torch.tensor(np.cumsum([0, *lengths])))


def make_batch(rng: np.random.Generator, pairs: int = 12) -> Batch:
    a, b = packed(rng, [4, 9, 1, 30], 7), packed(rng, [6, 2, 17], 5)
    index = [torch.from_numpy(rng.integers(0, n, pairs)) for n in (4, 3)]
    label = torch.from_numpy(rng.integers(0, 2, pairs).astype(np.float32))
    return Batch(a, b, index[0], index[1], label)


def single(batch: Batch, pair: int) -> Batch:
    """One pair of a batch as a batch of its own."""
    a, b = gather(batch.a, batch.a_index[pair : pair + 1]), gather(batch.b, batch.b_index[pair : pair + 1])
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(a, b, zero, zero, batch.label[pair : pair + 1])
