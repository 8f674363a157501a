"""Open ends joined by augmenting paths: as many joints as the degrees and the excluded pairs allow.

The ends of A and B with their degrees are a bipartite b-matching.  An open end of A looks breadth-first for a path to
an open end of B along which joints are moved on (Ford & Fulkerson 1956); where no path is, none ever will be, and all
that was reached is left out of later searches.  In one modality a pair may stand either way round, and a path that
would join two sequences both ways is given up: there the number is not always the largest.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator

import numpy as np

from crossllm.pipeline.negatives.candidates import Candidates

OPEN = -1
"""Partner of an end that is joined to none."""


class Joints:
    """Ends of one part and how they are joined; `partner` is changed in place."""

    def __init__(self, a: np.ndarray, b: np.ndarray, partner: np.ndarray, candidates: Candidates) -> None:
        self._a, self._b, self._partner, self._candidates = a, b, partner, candidates
        self._sequences = np.unique(b)
        """Of B, in this part."""
        self._at: dict[int, set[int]] = defaultdict(set)
        """Sequence of B → the ends of A that are joined to an end of it."""
        self._open: dict[int, list[int]] = defaultdict(list)
        """Sequence of B → its open ends."""
        self._has_open = np.zeros(candidates.b_count, bool)
        """(S_b,) whether it has any."""
        self._met: dict[int, set[int]] = defaultdict(set)
        """Sequence of A → the sequences that it is joined to; in one modality from either side."""
        taken = set(partner.tolist())
        for end, sequence in enumerate(b.tolist()):
            if end not in taken:
                self._open[sequence].append(end)
                self._has_open[sequence] = True
        for end in np.flatnonzero(partner != OPEN).tolist():
            self._mark(end)

    def augment(self, level: int, rng: np.random.Generator) -> None:
        """Join the open ends of A, in random order, by pairs of this level or below it."""
        dead: set[int] = set()
        """Sequences of A from which no open end can be reached."""
        for end in rng.permutation(np.flatnonzero(self._partner == OPEN)).tolist():
            if int(self._a[end]) not in dead:
                self._join(end, level, dead, rng)

    def _join(self, end: int, level: int, dead: set[int], rng: np.random.Generator) -> None:
        """Search from one open end, and join it if a path is found."""
        start = int(self._a[end])
        via: dict[int, int] = {start: end}
        """Sequence of A → its end by which it was reached."""
        came: dict[int, int] = {}
        """Sequence of B → the sequence of A that it was reached from."""
        left = np.ones(self._candidates.b_count, bool)
        """(S_b,) whether it was not reached yet."""
        waiting = deque([start])
        while waiting:
            sequence = waiting.popleft()
            reached = self._next(sequence, level, left)
            if len(opened := reached[self._has_open[reached]]):
                last = int(rng.choice(opened))
                came[last] = sequence
                self._follow(last, start, via, came)
                return
            left[reached] = False
            for found in rng.permutation(reached).tolist():
                came[found] = sequence
                for other in self._at[found]:
                    there = int(self._a[other])
                    if there not in via and there not in dead:
                        via[there] = other
                        waiting.append(there)
        dead.update(via)

    def _next(self, sequence: int, level: int, left: np.ndarray) -> np.ndarray:
        """Sequences of B that were not reached yet and may be joined to this one of A."""
        mine = np.zeros(len(left), bool)
        mine[list(self._met[sequence])] = True
        allowed = self._candidates.row(sequence, self._sequences) <= level
        found: np.ndarray = self._sequences[allowed & left[self._sequences] & ~mine[self._sequences]]
        return found

    def _follow(self, last: int, start: int, via: dict[int, int], came: dict[int, int]) -> None:
        """Move the joints of a path on by one, from its open end of B back to its open end of A."""
        steps = list(_path(last, start, via, came, self._b, self._partner))
        codes = self._candidates.codes(self._a[[end for end, _ in steps]], np.array([to for _, to in steps]))
        if len(np.unique(codes)) < len(steps):
            return
        free = self._open[last].pop()
        self._has_open[last] = bool(self._open[last])
        for end, _ in steps:
            before = int(self._partner[end])
            if before != OPEN:
                self._unmark(end)
            self._partner[end] = free
            self._mark(end)
            free = before

    def _mark(self, end: int) -> None:
        a, b = int(self._a[end]), int(self._b[self._partner[end]])
        self._at[b].add(end)
        self._met[a].add(b)
        if self._candidates.one_modality:
            self._met[b].add(a)

    def _unmark(self, end: int) -> None:
        a, b = int(self._a[end]), int(self._b[self._partner[end]])
        self._at[b].remove(end)
        self._met[a].discard(b)
        if self._candidates.one_modality:
            self._met[b].discard(a)


def _path(
    last: int, start: int, via: dict[int, int], came: dict[int, int], b: np.ndarray, partner: np.ndarray
) -> Iterator[tuple[int, int]]:
    """End of A, and the sequence of B that it is going to be joined to; from the open end of B on."""
    to = last
    while True:
        sequence = came[to]
        yield via[sequence], to
        if sequence == start:
            return
        to = int(b[partner[via[sequence]]])
