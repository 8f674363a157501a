"""`kmer` encoders: which word of k letters begins at a residue, without weights.

A row has a 1 in one column of each block, so its mean over a sequence is how often each word occurs ÷ the length: what
k-mer methods of the field read (RPISeq, Muppirala et al., BMC Bioinformatics 2011;12:489), by place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product

import numpy as np

from crossllm.cache.records.modality import CERTAIN
from crossllm.cache.records.record import Record
from crossllm.embed.encoder import Outputs
from crossllm.embed.encoders.scales import CONJOINT_TRIAD

VERSION = 1
"""Raise when a column changes; it is part of the recipe."""
_CLASSES = tuple(CONJOINT_TRIAD.values())
"""The seven classes of residues of Shen et al., PNAS 2007;104:4337."""
_BLOCKS: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "rna": tuple((tuple(CERTAIN["rna"]), k) for k in (1, 2, 3, 4)),
    "protein": (*((_CLASSES, k) for k in (1, 2, 3)), *((tuple(CERTAIN["protein"]), k) for k in (1, 2))),
}
"""Letters by class, and k, of each block of columns."""


class KmerEncoder:
    """Implements `crossllm.embed.encoder.Encoder` for rna and protein."""

    name = "kmer"
    limit: int | None = None

    def __init__(self, modality: str) -> None:
        self.modality = modality
        self.dim = len(columns(modality))
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        """`(key, outputs)`, one output: rows (L, dim) float32 of 0 and 1."""
        for record in records:
            yield record.key, (words(record.sequence, self.modality),)


def columns(modality: str) -> list[str]:
    """Names of the columns for rna or protein, in order: the word, a class by its residues in brackets."""
    found = []
    for classes, k in _BLOCKS[modality]:
        letters = [f"[{members}]" for members in classes] if classes is _CLASSES else classes
        found += ["".join(word) for word in product(letters, repeat=k)]
    return found


def words(sequence: str, modality: str) -> np.ndarray:
    """(L, C) float32: 1 where the column's word begins at the residue.

    A word with a letter that is in no class (N, X), or that runs past the end, is none.
    """
    codes = np.frombuffer(sequence.encode("ascii"), np.uint8)
    blocks = []
    for classes, k in _BLOCKS[modality]:
        letters = np.concatenate([_class_table(classes)[codes], np.full(k - 1, -1)])
        word, whole = np.zeros(len(codes), np.int64), np.ones(len(codes), bool)
        for offset in range(k):
            letter = letters[offset : offset + len(codes)]
            word, whole = word * len(classes) + letter, whole & (letter >= 0)
        block = np.zeros((len(codes), len(classes) ** k), np.float32)
        block[np.flatnonzero(whole), word[whole]] = 1
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


@cache
def _class_table(classes: tuple[str, ...]) -> np.ndarray:
    """(256,) number of the class of each letter, by its code; −1 of those that are in none."""
    table = np.full(256, -1)
    for number, members in enumerate(classes):
        table[[ord(letter) for letter in members]] = number
    return table
