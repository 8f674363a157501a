"""Many sequences as one array of class numbers, for counting without a loop over sequences.

Shapes: S sequences, T letters of all of them and one blank after each, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

AT_ONCE = 1 << 20
"""Letters that are counted together: memory does not grow with the set."""


class Letters(NamedTuple):
    """Sequences joined to one, a blank after each: a word that a blank is in belongs to no sequence."""

    codes: np.ndarray
    """(T,) number of each letter's class; −1 for blanks and for letters that are in no class (N, X)."""
    owner: np.ndarray
    """(T,) number of each letter's sequence."""
    place: np.ndarray
    """(T,) of each letter in its sequence, from 0."""
    lengths: np.ndarray
    """(S,) letters of each sequence, those of no class included."""


def encode(sequences: Sequence[str], classes: Sequence[str]) -> Letters:
    """The letters of some sequences, each class a string of letters that count as one."""
    code = np.full(256, -1, np.int64)
    for number, letters in enumerate(classes):
        code[list(letters.encode())] = number
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    codes = code[np.frombuffer("".join(f"{sequence} " for sequence in sequences).encode("ascii"), np.uint8)]
    owner = np.repeat(np.arange(len(sequences)), lengths + 1)
    starts = np.cumsum(lengths + 1) - lengths - 1
    return Letters(codes, owner, np.arange(len(codes)) - starts[owner], lengths)


def in_blocks(
    sequences: Sequence[str], classes: Sequence[str], width: int, make: Callable[[Letters], np.ndarray]
) -> np.ndarray:
    """(S, width) float32: `make` of the letters of some sequences at a time, `AT_ONCE` letters or one sequence."""
    found = np.empty((len(sequences), width), np.float32)
    for start, stop in _blocks(sequences):
        found[start:stop] = make(encode(sequences[start:stop], classes))
    return found


def per_sequence(letters: Letters, at: np.ndarray, kind: np.ndarray, kinds: int) -> np.ndarray:
    """(S, kinds) how often each kind occurs at these places (T' of them, each with its kind)."""
    count = len(letters.lengths)
    return np.bincount(letters.owner[at] * kinds + kind, minlength=count * kinds).reshape(count, kinds)


def _blocks(sequences: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of sequences with about `AT_ONCE` letters each."""
    ends = np.cumsum([len(sequence) + 1 for sequence in sequences])
    cuts = np.searchsorted(ends, np.arange(AT_ONCE, ends[-1] if len(ends) else 0, AT_ONCE)).tolist()
    edges = sorted({0, *cuts, len(sequences)})
    return list(pairwise(edges))
