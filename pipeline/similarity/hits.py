"""Pairs of sequences that resemble each other, and what follows from them: a matrix, and clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse


class Hits(NamedTuple):
    """Of S sequences, the pairs that resemble each other; each pair once."""

    total: int
    """S."""
    first: np.ndarray
    """(H,) int64."""
    second: np.ndarray
    """(H,) int64."""
    identity: np.ndarray
    """(H,) float32, identical columns ÷ columns of the alignment; of molecules, Tanimoto."""

    @classmethod
    def of(cls, total: int, found: list[tuple[int, int, float]]) -> Hits:
        """From `(one, other, identity)` in any order."""
        found = sorted((min(i, j), max(i, j), identity) for i, j, identity in found)
        columns = list(zip(*found, strict=True)) or [(), (), ()]
        return cls(
            total, np.array(columns[0], np.int64), np.array(columns[1], np.int64), np.array(columns[2], np.float32)
        )

    def matrix(self) -> sparse.csr_matrix:
        """(S, S) float32, symmetric; 1 on the diagonal."""
        from scipy import sparse

        itself = np.arange(self.total)
        rows = np.concatenate([self.first, self.second, itself])
        columns = np.concatenate([self.second, self.first, itself])
        values = np.concatenate([self.identity, self.identity, np.ones(self.total, np.float32)])
        return sparse.csr_matrix((values, (rows, columns)), shape=(self.total, self.total), dtype=np.float32)

    def components(self, identity: float) -> np.ndarray:
        """(S,) cluster of each: the connected components (single linkage) of the pairs at or above an identity.

        A greedy representative would leave similar pairs in two clusters.
        """
        from scipy import sparse
        from scipy.sparse.csgraph import connected_components

        linked = self.identity >= np.float32(identity)
        edges = sparse.coo_matrix(
            (np.ones(int(linked.sum())), (self.first[linked], self.second[linked])), shape=(self.total, self.total)
        )
        found: np.ndarray = connected_components(edges, directed=False)[1]
        return found.astype(np.int64)
