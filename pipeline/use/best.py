"""The best of all pairs, block by block, in memory that does not grow with their number.

Shapes: S sequences of a side, n_a and n_b of a block, k the best that are kept.
"""

from __future__ import annotations

import numpy as np


class BestOfAll:
    """The k best pairs over all.

    Equal values are ordered by the number of A, then of B, whatever the blocks.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._value = np.empty(0)
        self._a = self._b = np.empty(0, np.int64)

    def add(self, a: np.ndarray, b: np.ndarray, value: np.ndarray) -> None:
        """A block: `value` (n_a, n_b) of the sequences `a` (n_a,) with `b` (n_b,)."""
        flat = value.ravel()
        if len(self._value) == self._k:
            chosen = np.flatnonzero(flat >= self._value[-1])
        elif len(flat) > self._k:
            chosen = np.flatnonzero(flat >= np.partition(flat, len(flat) - self._k)[len(flat) - self._k])
        else:
            chosen = np.arange(len(flat))
        values = np.concatenate([self._value, flat[chosen]])
        both = np.concatenate([self._a, a[chosen // len(b)]]), np.concatenate([self._b, b[chosen % len(b)]])
        order = np.lexsort((both[1], both[0], -values))[: self._k]
        self._value, self._a, self._b = values[order], both[0][order], both[1][order]

    def state(self) -> dict[str, np.ndarray]:
        """All that is kept, for `restore`."""
        return {"value": self._value, "a": self._a, "b": self._b}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from another's `state`."""
        self._value, self._a, self._b = state["value"], state["a"], state["b"]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of A and of B of the best pairs, the best first."""
        return self._a, self._b


class BestOfEach:
    """The k best partners of each of S sequences of one side.

    Blocks of one sequence must come in rising order of its partners; equal values are ordered by the partner's number.
    """

    def __init__(self, count: int, k: int) -> None:
        self._value = np.full((count, k), -np.inf)
        self._other = np.full((count, k), -1, np.int64)

    def add(self, own: np.ndarray, other: np.ndarray, value: np.ndarray) -> None:
        """A block: `value` (n, m) of the sequences `own` (n,) with the partners `other` (m,)."""
        k = self._value.shape[1]
        values = np.concatenate([self._value[own], value], 1)
        others = np.concatenate([self._other[own], np.broadcast_to(other, value.shape)], 1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        self._value[own] = np.take_along_axis(values, order, 1)
        self._other[own] = np.take_along_axis(others, order, 1)

    def state(self) -> dict[str, np.ndarray]:
        """All that is kept, for `restore`."""
        return {"value": self._value, "other": self._other}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from another's `state`."""
        self._value, self._other = state["value"], state["other"]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the sequences and of their partners, sequence by sequence, the best first."""
        own, place = np.nonzero(self._other >= 0)
        return own, self._other[own, place]
