"""How far new sequences are from those that a run was trained on: whether its answers can be trusted there.

Shapes: S distinct sequences of a side, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from crossllm.pipeline.data.sequences import read_sequences
from crossllm.pipeline.similarity.nearest import nearest_identity
from crossllm.pipeline.use.run_data import RunData

COLUMNS = ("nearest_a", "nearest_b", "domain")
CLASSES = np.array(["C1", "C2a", "C2b", "C3"])
"""Both partners seen, A unseen, B unseen, both unseen (Park & Marcotte, Nat Methods 2012;9:1134)."""


class Nearness(NamedTuple):
    """Of one side's sequences."""

    seen: np.ndarray
    """(S,) whether the exact sequence stands in a training pair."""
    identity: np.ndarray
    """(S,) float32 identity to the nearest training sequence: 1 where it is seen, 0 where none is like it."""
    near: np.ndarray
    """(S,) whether that reaches the identity from which the run's settings call two sequences relatives."""


def nearness(
    data: RunData,
    side: str,
    keys: Sequence[bytes],
    sequences: Callable[[Sequence[int]], list[str]],
    *,
    quiet: bool = False,
) -> Nearness:
    """Of one side's sequences to the training sequences of that side.

    Args:
        data: of the run.
        side: a or b.
        keys: (S,) of the sequences.
        sequences: their texts, asked for by place, of those alone that are not seen.
        quiet: no progress bar.

    Raises:
        InputError: there are so many that MMseqs2 is needed, and it cannot run.
        CacheCorrupt: the dataset's file of sequences is not as it was imported.
    """
    place = "ab".index(side)
    trained, rule, modality = data.trained[place], data.rules[place], data.modalities[place]
    seen = np.array([key in trained for key in keys], bool)
    identity = np.ones(len(seen), np.float32)
    unseen = np.flatnonzero(~seen).tolist()
    if unseen:
        held = read_sequences(data.cache_dir, modality)
        known = [held[key] for key in sorted(trained)]
        identity[unseen] = nearest_identity(sequences(unseen), known, modality, quiet=quiet)
    return Nearness(seen, identity, identity >= np.float32(rule.identity))


def domains(a: Nearness, b: Nearness, number_a: np.ndarray, number_b: np.ndarray) -> np.ndarray:
    """(P,) `C1`, or the class and how far its unseen partners are: `C2a near`, `C3 far`.

    Far: an unseen partner has no training sequence as near as the run's settings ask of a relative.
    """
    seen_a, seen_b = a.seen[number_a], b.seen[number_b]
    near = (seen_a | a.near[number_a]) & (seen_b | b.near[number_b])
    kind = CLASSES[1 * ~seen_a + 2 * ~seen_b]
    ends = np.where(seen_a & seen_b, "", np.where(near, " near", " far"))
    return np.char.add(kind, ends)
