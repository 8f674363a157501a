"""How many threads a step takes on the CPU: torch's own operations one where they are small, our kernels what they use.

torch cuts even the product of thirty rows, a norm or the optimiser's pass over one weight among all its threads, and
then waits for them: of a small step that is most of the time, and on a machine that others use ten times the rest.
The kernels of `crossllm.model.scan` and `crossllm.model.fused` know how many tasks they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crossllm.model.batch import Batch

SMALL = 1 << 21
"""Values of a batch's rows up to which one thread does what torch does itself: a few milliseconds of products."""
_budget: int | None = None


def kernel_threads() -> int:
    """Threads that a kernel of ours may take: torch's count, or what it was outside `few_threads`."""
    return torch.get_num_threads() if _budget is None else _budget


@contextmanager
def few_threads(batch: Batch) -> Iterator[None]:
    """A forward and backward pass of a batch: where it is small and on the CPU, torch's own operations take one thread.

    The choice depends on the batch alone, so that a run gives the same bits again.
    """
    global _budget
    count, before = torch.get_num_threads(), _budget
    rows = batch.a.tokens, batch.b.tokens
    if count == 1 or rows[0].device.type != "cpu" or sum(x.numel() for x in rows) > SMALL:
        yield
        return
    _budget = kernel_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _budget = before
