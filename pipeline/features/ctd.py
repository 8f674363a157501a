"""Composition, transition and distribution of the classes of letters (Dubchak et al., PNAS 1995;92:8700).

Of proteins by eight properties of three classes each.  Seven are those of Dubchak et al., Proteins 1999;35:401 (table
1; cysteine, which some programs leave out of the smallest volumes, is among them); the eighth, surface tension, is of
PROFEAT (Li et al., Nucleic Acids Res 2006;34:W32).  Of RNAs by the four nucleotides.

Shapes: S sequences, T letters, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUES, kmer_counts
from crossllm.pipeline.features.letters import Letters, in_blocks, per_sequence

PROPERTIES: dict[str, tuple[str, ...]] = {
    "hydrophobicity": ("RKEDQN", "GASTPHY", "CLVIMFW"),
    "van der Waals volume": ("GASTPDC", "NVEQIL", "MHKFRYW"),
    "polarity": ("LIFWCMVY", "PATGS", "HQRKNED"),
    "polarisability": ("GASDT", "CPNVEQIL", "KMHFRYW"),
    "charge": ("KR", "ANCQGHILMFPSTWYV", "DE"),
    "secondary structure": ("EALMQKRH", "VIYCWFT", "GNPSD"),
    "solvent accessibility": ("ALFCGIVW", "RKQEND", "MPSTHY"),
    "surface tension": ("GQDNAHR", "KTSEC", "ILMFPWYV"),
}
"""Property → its three classes of residues."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of a class: where so many of its letters have come is a feature, beside where its first letter stands."""


def ctd(sequences: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """(S, C + C(C − 1)/2 + 5C) float32, each a share from 0 to 1: 21 of three classes, 30 of four.

    Composition: letters of each class ÷ length.  Transition: neighbours of two different classes, in either order, ÷
    (length − 1), pairs of classes as (1, 2), (1, 3), …  Distribution, class by class: the place, from 1, of its first
    letter and of those with which a quarter, half, three quarters (rounded down, at least the first) and all of its
    letters have come, ÷ length; 0 where the class is absent.
    """
    count = len(classes)
    return in_blocks(sequences, classes, count + count * (count - 1) // 2 + 5 * count, lambda it: _ctd(it, count))


def protein_ctd(sequences: Sequence[str]) -> np.ndarray:
    """(S, 188) float32: the shares of the twenty residues, then `ctd` by each of `PROPERTIES` (SVM-Prot's 188)."""
    lengths = np.array([max(len(sequence), 1) for sequence in sequences], np.float32)[:, None]
    blocks = [kmer_counts(sequences, RESIDUES, 1) / lengths]
    return np.concatenate([*blocks, *(ctd(sequences, classes) for classes in PROPERTIES.values())], axis=1)


def rna_ctd(sequences: Sequence[str]) -> np.ndarray:
    """(S, 30) float32: `ctd` by nucleotide."""
    return ctd(sequences, NUCLEOTIDES)


def _ctd(letters: Letters, count: int) -> np.ndarray:
    known = np.flatnonzero(letters.codes >= 0)
    lengths = np.maximum(letters.lengths, 1)[:, None]
    of_class = per_sequence(letters, known, letters.codes[known], count)
    pairs = _transitions(letters, count) / np.maximum(lengths - 1, 1)
    return np.concatenate([of_class / lengths, pairs, _distribution(letters, of_class) / lengths], axis=1)


def _transitions(letters: Letters, count: int) -> np.ndarray:
    """(S, C(C − 1)/2) neighbours of two classes, whatever their order."""
    first, second = letters.codes[:-1], letters.codes[1:]
    at = np.flatnonzero((first >= 0) & (second >= 0) & (first != second))
    low, high = np.minimum(first[at], second[at]), np.maximum(first[at], second[at])
    both = per_sequence(letters, at, low * count + high, count * count)
    return both[:, [a * count + b for a in range(count) for b in range(a + 1, count)]]


def _distribution(letters: Letters, of_class: np.ndarray) -> np.ndarray:
    """(S, 5C) places, from 1."""
    count = of_class.shape[1]
    known = np.flatnonzero(letters.codes >= 0)
    group = letters.owner[known] * count + letters.codes[known]
    places = np.append(letters.place[known][np.argsort(group, kind="stable")] + 1, 0)
    sizes = of_class.reshape(-1)  # of the groups, in their order
    starts = np.cumsum(sizes) - sizes
    ranks = [np.ones_like(sizes), *(np.maximum((share * sizes).astype(int), 1) for share in SHARES)]
    found = np.stack([np.where(sizes > 0, places[starts + rank - 1], 0) for rank in ranks], axis=1)
    return found.reshape(len(of_class), 5 * count)
