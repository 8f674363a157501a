"""k-mer frequencies of RNAs and proteins.

Alphabets: RNA by its four nucleotides; proteins by their twenty residues, or by the seven classes of Shen et al. (PNAS
2007;104:4337), on which RPISeq (Muppirala et al., BMC Bioinformatics 2011;12:489) and its successors count triads.

Shapes: S sequences, T letters of all of them, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crossllm.pipeline.features.letters import Letters, in_blocks, per_sequence

NUCLEOTIDES = ("A", "C", "G", "U")
RESIDUES = tuple("ACDEFGHIKLMNPQRSTVWY")
RESIDUE_CLASSES = ("AGV", "ILFP", "YMTS", "HNQW", "RK", "DE", "C")


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
    return in_blocks(sequences, classes, len(classes) ** k, lambda letters: _counted(letters, len(classes), k))


def kmer_shares(sequences: Sequence[str], alphabet: Alphabet) -> np.ndarray:
    """(S, F) float32: how often each word occurs ÷ how many words of k letters there are, for each k of the alphabet.

    A word with a letter that is in no class counts among those that there are.
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.float32)[:, None]
    blocks = [kmer_counts(sequences, alphabet.classes, k) / np.maximum(lengths - k + 1, 1) for k in alphabet.sizes]
    found: np.ndarray = np.concatenate(blocks, axis=1)
    return found


def _counted(letters: Letters, base: int, k: int) -> np.ndarray:
    """(S, base^k) the counts of some sequences."""
    codes = np.concatenate([letters.codes, np.full(k, -1)])
    word, whole = np.zeros(len(letters.codes), np.int64), np.ones(len(letters.codes), bool)
    for offset in range(k):
        letter = codes[offset : offset + len(word)]
        word, whole = word * base + letter, whole & (letter >= 0)
    return per_sequence(letters, np.flatnonzero(whole), word[whole], base**k)
