"""One matrix of descriptors for the sequences of a side, whatever their modality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossllm.cache.records.record import length_of
from crossllm.pipeline.features.fingerprints import morgan
from crossllm.pipeline.features.kmers import kmers


def describe(sequences: Sequence[str], modality: str) -> np.ndarray:
    """(S, F) float32: k-mer frequencies of RNAs and proteins, Morgan fingerprints of molecules."""
    if modality == "molecule":
        return morgan(sequences).astype(np.float32)
    return kmers(sequences, modality)


def single_numbers(sequences: Sequence[str], modality: str) -> dict[str, np.ndarray]:
    """Name → (S,) float64: what a sequence can be summed up by in one number.

    Length (nucleotides, residues, or heavy atoms) and, of an RNA, the share of G and C.
    """
    lengths = np.array([length_of(modality, sequence) for sequence in sequences], np.float64)
    found = {"length": lengths}
    if modality == "rna":
        found["GC"] = np.array([s.count("G") + s.count("C") for s in sequences], np.float64) / np.maximum(lengths, 1)
    return found
