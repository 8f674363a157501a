"""What bootstrap replicates drew, and the threads that score them.

Shapes: R replicates, P pairs, A and B distinct sequences of both sides, M values of a replicate.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache.console.machine import cores


class Draws(NamedTuple):
    """How often each replicate drew each sequence, and which sequences the pairs of a fold are of.

    A pair counts as often as both of its sequences were drawn together.  That product is never written down for all
    pairs: 200,000 of them in 1,000 replicates are 1.6 GB.
    """

    a_times: np.ndarray
    """(R, A) int32."""
    b_times: np.ndarray
    """(R, B) int32."""
    a: np.ndarray
    """(P,) number of each pair's first sequence."""
    b: np.ndarray
    """(P,) number of its second."""

    def weights(self) -> np.ndarray:
        """(R, P) float64: how often each pair counts in each replicate."""
        found: np.ndarray = (self.a_times[:, self.a] * self.b_times[:, self.b]).astype(float)
        return found


Kernel = Callable[..., None]
"""Called with (found (r, M), a_times (r, A), b_times (r, B), a, b, the fold's columns); fills `found`, without the
interpreter's lock."""


def in_threads(kernel: Kernel, values: int, draws: Draws, order: np.ndarray, *columns: Any) -> np.ndarray:
    """(R, M) what a kernel finds in each replicate; each thread has replicates of its own, so no sum depends on them.

    Args:
        kernel: compiled.
        values: M.
        draws: of the fold.
        order: (P,) the pairs in the order in which the kernel reads them.
        columns: of the fold, in that order.
    """
    a, b = (np.ascontiguousarray(side[order], np.int32) for side in (draws.a, draws.b))
    found = np.empty((len(draws.a_times), values))

    def fill(rows: slice) -> None:
        kernel(found[rows], draws.a_times[rows], draws.b_times[rows], a, b, *columns)

    threads = min(cores(), len(found))
    bounds = np.linspace(0, len(found), threads + 1).astype(int).tolist()
    parts = [slice(start, stop) for start, stop in pairwise(bounds)]
    if threads < 2:
        fill(parts[0])
        return found
    with ThreadPoolExecutor(threads, "bootstrap") as pool:
        list(pool.map(fill, parts))  # a list, so that an error of a thread is raised here
    return found
