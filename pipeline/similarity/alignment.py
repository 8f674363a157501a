"""Exact local alignment of every sequence with every other (Smith & Waterman, J Mol Biol 1981;147:195) by parasail.

Where two are unrelated, the score alone is computed, which is fast; the rest follows only for those whose score chance
does not explain.  No step keeps a table of the alignment, so memory grows with the lengths and not with their product.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache.console.machine import cores
from crossllm.cache.console.progress import progress
from crossllm.pipeline.similarity.hits import Hits
from crossllm.pipeline.similarity.rules import COVERAGE, E_VALUE


class Scoring(NamedTuple):
    """Scores of an alignment, and the statistics of chance that belong to them."""

    matrix: str
    """Name in parasail; of nucleotides, match and mismatch: 2, −3."""
    gap_open: int
    """Cost of a gap's first residue."""
    gap_extend: int
    scale: float
    """λ of Karlin & Altschul, PNAS 1990;87:2264: E = K · m · n · exp(−λ · score)."""
    factor: float
    """K."""
    against_all: bool
    """n: letters of all sequences, as a search of a database has it, or of the other sequence.  Short RNAs (15 nt)
    can reach no E of 10⁻³ against a whole set."""


SCORING = {
    "protein": Scoring("blosum62", 11, 1, 0.267, 0.041, True),
    "rna": Scoring("nucleotides", 7, 2, 0.625, 0.41, False),
}
"""Modality → its scoring; λ and K as BLAST's documentation gives them for these scores."""


class Alignment(NamedTuple):
    """The best local alignment of two sequences."""

    score: int
    first: tuple[int, int]
    """Begin and end of its part of the first sequence."""
    second: tuple[int, int]
    identity: float
    """Identical columns ÷ columns."""


def align_all(sequences: Sequence[str], modality: str, floor: float, *, quiet: bool = False) -> Hits:
    """The pairs with at least `floor` identity over `COVERAGE` of both lengths and E ≤ `E_VALUE`.

    Args:
        sequences: S normalised sequences.
        modality: rna or protein.
        floor: least identity that is kept.
        quiet: no progress bar.
    """
    letters = sum(map(len, sequences))
    # The longest first: what is left to the end is short, and the threads end together.
    order = sorted(range(len(sequences)), key=lambda n: (-len(sequences[n]), sequences[n]))
    ordered = [sequences[n] for n in order]

    def row(place: int) -> list[tuple[int, int, float]]:
        later = range(place + 1, len(ordered))
        found = _against(ordered[place], ordered, later, SCORING[modality], letters, floor)
        return [(order[place], order[other], identity) for other, identity in found]

    with ThreadPoolExecutor(cores()) as pool:
        rows = progress(pool.map(row, range(len(ordered))), len(ordered), f"aligning {modality}", quiet)
        return Hits.of(len(sequences), [hit for found in rows for hit in found])


def align_nearest(
    queries: Sequence[str], targets: Sequence[str], modality: str, floor: float, *, quiet: bool = False
) -> np.ndarray:
    """(Q,) float32: highest identity of each query to a target, by the terms of `align_all`; 0 where none passes them.

    Args:
        queries: Q normalised sequences.
        targets: the sequences that they are compared with.
        modality: rna or protein.
        floor: least identity that counts.
        quiet: no progress bar.
    """
    letters = sum(map(len, targets))
    ordered = sorted(targets, key=lambda target: (-len(target), target))
    lengths = [-len(target) for target in ordered]

    def best(query: str) -> float:
        # Longer ones than this cannot be covered by the query; `_against` leaves out those that are too short.
        first = bisect_left(lengths, -len(query) / (floor * COVERAGE))
        places = range(first, len(ordered))
        found = _against(query, ordered, places, SCORING[modality], letters, floor)
        return max((identity for _, identity in found), default=0.0)

    with ThreadPoolExecutor(cores()) as pool:
        what = f"aligning {modality} with training"
        return np.array([*progress(pool.map(best, queries), len(queries), what, quiet)], np.float32)


def _against(
    query: str, ordered: Sequence[str], places: Iterable[int], scoring: Scoring, letters: int, floor: float
) -> list[tuple[int, float]]:
    """Place and identity of those of `ordered`, the longest first, that stand at `places` and resemble the query."""
    import parasail

    matrix = _matrix(scoring)
    profile = parasail.profile_create_sat(query, matrix)
    found = []
    for other in places:
        target = ordered[other]
        # Columns are at least COVERAGE of the longer one, identical ones at most the shorter one.
        if len(target) < floor * COVERAGE * len(query):
            break
        if len(target) == 0:
            continue
        best = parasail.sw_striped_profile_sat(profile, target, scoring.gap_open, scoring.gap_extend)
        space = len(query) * (letters if scoring.against_all else len(target))
        if scoring.factor * space * math.exp(-scoring.scale * best.score) > E_VALUE:
            continue
        ends = (best.end_query + 1, best.end_ref + 1)
        aligned = _whole(query, target, ends, scoring, matrix, floor)
        if aligned is not None and aligned.identity >= floor:
            found.append((other, aligned.identity))
    return found


def _whole(
    query: str, target: str, ends: tuple[int, int], scoring: Scoring, matrix: Any, least: float
) -> Alignment | None:
    """The alignment that ends there, None where it covers too little.

    Backwards from its end, the best local alignment ends where this one begins; within those bounds it is the best
    global one.
    """
    import parasail

    gaps = scoring.gap_open, scoring.gap_extend
    back = parasail.sw_striped_sat(query[: ends[0]][::-1], target[: ends[1]][::-1], *gaps, matrix)
    first = ends[0] - back.end_query - 1, ends[0]
    second = ends[1] - back.end_ref - 1, ends[1]
    spans = first[1] - first[0], second[1] - second[0]
    if spans[0] < COVERAGE * len(query) or spans[1] < COVERAGE * len(target) or min(spans) < least * max(spans):
        return None
    within = parasail.nw_stats_striped_sat(query[slice(*first)], target[slice(*second)], *gaps, matrix)
    return Alignment(int(within.score), first, second, within.matches / within.length)


def _matrix(scoring: Scoring) -> Any:
    import parasail

    if scoring.matrix == "nucleotides":
        return parasail.matrix_create("ACGU", 2, -3)  # any other letter with any letter: 0
    return getattr(parasail, scoring.matrix)
