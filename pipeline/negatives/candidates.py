"""Which pairs of sequences may be drawn as negatives, and which of them are hard ones.

A pair of sequences is a code, one int64: number of A × S_b + number of B.  Shapes: N pairs; E codes, ascending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossllm.pipeline.similarity.similarity import Similarity

if TYPE_CHECKING:
    from scipy import sparse

EXCLUDED = 3
"""Level of a pair that is never drawn; below it, the smaller the level the harder the pair."""


class Candidates(NamedTuple):
    """What may be drawn; sequences are numbered as in the similarities of both sides."""

    b_count: int
    """S_b."""
    one_modality: bool
    """Whether (x, y) and (y, x) are the same two sequences, and (x, x) is no pair of two."""
    known: np.ndarray
    """(E,) codes of the known positives."""
    excluded: np.ndarray
    """(E,) codes of the known positives and of the pairs near one; in one modality of (x, y) and of (y, x)."""
    relatives: Relatives | None
    """Where hard negatives are asked for."""

    def codes(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(N,) code of each pair; in one modality the same of (x, y) and (y, x)."""
        found: np.ndarray = a * self.b_count + b
        return np.minimum(found, b * self.b_count + a) if self.one_modality else found

    def level(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(N,) `EXCLUDED`, or 0 for what is wanted most: where no hard negatives are asked for, all others are 0.

        Hard negatives: 0, the B is of the cluster of a positive partner of the A; 1, the A of one of the B; 2, neither.
        """
        found = np.zeros(len(a), np.int64) if self.relatives is None else self.relatives.level(a, b)
        found[within(a * self.b_count + b, self.excluded)] = EXCLUDED
        if self.one_modality:
            found[a == b] = EXCLUDED
        return found

    def levels(self) -> tuple[int, ...]:
        """The levels below `EXCLUDED` that there are, what is wanted most first."""
        if self.relatives is None:
            return (0,)
        return (0, 2) if self.one_modality else (0, 1, 2)

    def row(self, a: int, b: np.ndarray) -> np.ndarray:
        """(N,) `level` of one A with many B, without a search for each."""
        found = np.zeros(len(b), np.int64) if self.relatives is None else self.relatives.row(a, b)
        out = np.zeros(self.b_count, bool)
        out[_row(self.excluded, a, self.b_count)] = True
        out[[a] if self.one_modality else []] = True
        found[out[b]] = EXCLUDED
        return found

    def near(self) -> int:
        """Pairs of two sequences that are excluded and not known."""
        a, b = np.divmod(self.excluded, self.b_count)
        return int((a <= b).sum() if self.one_modality else len(a)) - len(self.known)

    def without(self, a: np.ndarray, b: np.ndarray) -> Candidates:
        """The same, less (N,) pairs that were drawn already."""
        drawn = [a * self.b_count + b, *([b * self.b_count + a] if self.one_modality else [])]
        return self._replace(excluded=np.unique(np.concatenate([self.excluded, *drawn])))


class Relatives(NamedTuple):
    """Clusters of the sequences, and which of them hold a positive partner of whom."""

    a_cluster: np.ndarray
    """(S_a,)"""
    b_cluster: np.ndarray
    """(S_b,)"""
    of_a: np.ndarray
    """(E,) A × clusters of B + cluster of a positive partner of this A."""
    of_b: np.ndarray
    """(E,) cluster of a positive partner of this B × S_b + B."""
    one_modality: bool

    def level(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(N,) 0, 1 or 2: see `Candidates.level`; in one modality a relative on either side is 0."""
        b_near = within(a * (self.b_cluster.max() + 1) + self.b_cluster[b], self.of_a)
        a_near = within(self.a_cluster[a] * len(self.b_cluster) + b, self.of_b)
        return self._level(b_near, a_near)

    def row(self, a: int, b: np.ndarray) -> np.ndarray:
        """(N,) `level` of one A with many B."""
        clusters, of_cluster = np.zeros(self.b_cluster.max() + 1, bool), np.zeros(len(self.b_cluster), bool)
        clusters[_row(self.of_a, a, len(clusters))] = True
        of_cluster[_row(self.of_b, int(self.a_cluster[a]), len(of_cluster))] = True
        return self._level(clusters[self.b_cluster[b]], of_cluster[b])

    def _level(self, b_near: np.ndarray, a_near: np.ndarray) -> np.ndarray:
        return np.where(b_near, 0, np.where(a_near, 0 if self.one_modality else 1, 2))


def _row(codes: np.ndarray, number: int, width: int) -> np.ndarray:
    """Columns of one row of a matrix, from ascending codes: row × width + column."""
    start, stop = np.searchsorted(codes, [number * width, (number + 1) * width])
    found: np.ndarray = codes[start:stop] - number * width
    return found


def within(codes: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """(N,) whether each code is one of those in ascending order."""
    if len(ascending) == 0:
        return np.zeros(len(codes), bool)
    place = np.minimum(np.searchsorted(ascending, codes), len(ascending) - 1)
    found: np.ndarray = ascending[place] == codes
    return found


def candidates_of(
    a: np.ndarray,
    b: np.ndarray,
    similarities: tuple[Similarity, Similarity],
    near: float,
    *,
    one_modality: bool,
    clusters: tuple[np.ndarray, np.ndarray] | None = None,
) -> Candidates:
    """What may be drawn beside these positives.

    A pair is excluded where it is near a positive (a', b'): both its A and a', and its B and b', are of identity `near`
    or more; a sequence is of identity 1 with itself, and forms of one parent molecule (salts, stereo twins) count too.

    Args:
        a, b: (P,) numbers of the positives' sequences in `similarities`.
        similarities: of both sides.
        near: from 0 to 1.
        one_modality: whether both sides are.
        clusters: (S,) of the sequences of both sides, where hard negatives are asked for.
    """
    from scipy import sparse

    shape = len(similarities[0].keys), len(similarities[1].keys)
    positives = sparse.csr_matrix((np.ones(len(a), np.int32), (a, b)), shape=shape)
    alike = [_alike(similarity, near) for similarity in similarities]
    rows, columns = (alike[0] @ positives @ alike[1].T).nonzero()
    relatives = None
    if clusters is not None:
        first, second = (np.concatenate([a, b]), np.concatenate([b, a])) if one_modality else (a, b)
        of_a = np.unique(first * (clusters[1].max() + 1) + clusters[1][second])
        of_b = np.unique(clusters[0][first] * shape[1] + second)
        relatives = Relatives(*clusters, of_a, of_b, one_modality)
    empty = np.empty(0, np.int64)
    found = Candidates(shape[1], one_modality, np.unique(a * shape[1] + b), empty, relatives)
    if one_modality:
        found = found._replace(known=np.unique(found.codes(a, b)))
    return found.without(rows.astype(np.int64), columns.astype(np.int64))


def _alike(similarity: Similarity, near: float) -> sparse.csr_matrix:
    """(S, S) 1 or more where two sequences are of this identity or more, or molecules forms of one parent."""
    from scipy import sparse

    found = (similarity.identity >= np.float32(near)).astype(np.int32)
    if similarity.rule.modality == "molecule":
        number = np.arange(len(similarity.keys))
        parent = sparse.csr_matrix((np.ones(len(number), np.int32), (number, similarity.component)))
        found = found + parent @ parent.T
    return found
