"""k-mer frequencies of RNAs and proteins.

Alphabets: RNA by its four nucleotides; proteins by their twenty residues, or by the seven classes of Shen et al. (PNAS
2007;104:4337), on which RPISeq (Muppirala et al., BMC Bioinformatics 2011;12:489) and its successors count triads.

Shapes: S sequences, T letters of all of them, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

NUCLEOTIDES = ("A", "C", "G", "U")
RESIDUES = tuple("ACDEFGHIKLMNPQRSTVWY")
RESIDUE_CLASSES = ("AGV", "ILFP", "YMTS", "HNQW", "RK", "DE", "C")
AT_ONCE = 1 << 20
"""Letters that are counted together: memory does not grow with the set."""


class Alphabet(NamedTuple):
    """Letters by class, and the lengths of the words that are counted over them."""

    classes: tuple[str, ...]
    sizes: tuple[int, ...]
    """k of each block."""


KMERS: dict[str, tuple[Alphabet, ...]] = {
    "rna": (Alphabet(NUCLEOTIDES, (1, 2, 3, 4)),),
    "protein": (Alphabet(RESIDUE_CLASSES, (1, 2, 3)), Alphabet(RESIDUES, (1, 2))),
}
"""Modality → blocks of features, in order: 340 of an RNA, 399 + 420 of a protein."""


def kmers(sequences: Sequence[str], modality: str) -> np.ndarray:
    """(S, F) float32: `frequencies` of the words of `KMERS[modality]`."""
    return frequencies(sequences, KMERS[modality])


def frequencies(sequences: Sequence[str], alphabets: Sequence[Alphabet]) -> np.ndarray:
    """(S, F) float32: how often each word of the alphabets occurs ÷ the sequence's length.

    The words of a block are in the order of the alphabet, the last letter changing fastest.  A word with a letter that
    is in no class (N, X) is not counted; one shorter than k leaves its block at 0.
    """
    blocks = [kmer_counts(sequences, alphabet.classes, k) for alphabet in alphabets for k in alphabet.sizes]
    lengths = np.array([max(len(sequence), 1) for sequence in sequences], np.float32)
    found: np.ndarray = np.concatenate(blocks, axis=1) / lengths[:, None]
    return found


def kmer_counts(sequences: Sequence[str], classes: Sequence[str], k: int) -> np.ndarray:
    """(S, len(classes)^k) float32: how often each word of k letters occurs."""
    code = np.full(256, -1, np.int64)
    for number, letters in enumerate(classes):
        code[list(letters.encode())] = number
    words = len(classes) ** k
    counts = np.empty((len(sequences), words), np.float32)
    for start, stop in _blocks(sequences):
        counts[start:stop] = _counted(sequences[start:stop], code, len(classes), k)
    return counts


def _counted(sequences: Sequence[str], code: np.ndarray, base: int, k: int) -> np.ndarray:
    """The counts of some sequences, joined to one: a word that a blank is in belongs to no sequence."""
    letters = code[np.frombuffer(" ".join([*sequences, " " * k]).encode("ascii"), np.uint8)]
    owner = np.repeat(np.arange(len(sequences)), [len(sequence) + 1 for sequence in sequences])  # (T,)
    word, whole = np.zeros(len(owner), np.int64), np.ones(len(owner), bool)
    for offset in range(k):
        letter = letters[offset : offset + len(owner)]
        word, whole = word * base + letter, whole & (letter >= 0)
    places = owner[whole] * base**k + word[whole]
    return np.bincount(places, minlength=len(sequences) * base**k).reshape(len(sequences), base**k)


def _blocks(sequences: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of sequences with about `AT_ONCE` letters each."""
    ends = np.cumsum([len(sequence) + 1 for sequence in sequences])
    cuts = np.searchsorted(ends, np.arange(AT_ONCE, ends[-1] if len(ends) else 0, AT_ONCE)).tolist()
    edges = sorted({0, *cuts, len(sequences)})
    return list(pairwise(edges))
