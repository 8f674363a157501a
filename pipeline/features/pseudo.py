"""Pseudo composition: the composition of a sequence, and how alike its letters are a few places apart.

PC-PseAAC-General and PC-PseDNC-General of Pse-in-One (Liu et al., Nucleic Acids Res 2015;43:W65), the parallel
correlation of Chou, Proteins 2001;43:246.  Tables are published facts:

- residues: hydrophobicity of Tanford (J Am Chem Soc 1962;84:4240), hydrophilicity of Hopp and Woods (PNAS 1981;78:3824)
  and the side chain's mass in dalton, the three of Chou 2001;
- steps of two nucleotides: shift, slide and rise (Å), tilt, roll and twist (°) of A-RNA (Pérez et al., Nucleic Acids
  Res 2004;32:6141), as DiProDB lists them.

Each property is standardised over the letters of the alphabet (deviation ÷ N).

Shapes: S sequences, T letters, K kinds of letters (20) or steps (16).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUES, kmer_counts
from crossllm.pipeline.features.letters import Letters, in_blocks

LAGS = 2
"""λ: letters, or steps, up to so many places apart are compared."""
WEIGHT = 0.1
"""w of the comparisons against the composition; Pse-in-One's default, and what LPI-CSFFR's published features have."""
RESIDUE_PROPERTIES: dict[str, tuple[float, ...]] = {
    "hydrophobicity": (
        0.62, 0.29, -0.90, -0.74, 1.19, 0.48, -0.40, 1.38, -1.50, 1.06,
        0.64, -0.78, 0.12, -0.85, -2.53, -0.18, -0.05, 1.08, 0.81, 0.26,
    ),
    "hydrophilicity": (
        -0.5, -1.0, 3.0, 3.0, -2.5, 0.0, -0.5, -1.8, 3.0, -1.8, -1.3, 0.2, 0.0, 0.2, 3.0, 0.3, -0.4, -1.5, -3.4, -2.3,
    ),
    "side-chain mass": (15, 47, 59, 73, 91, 1, 82, 57, 73, 57, 75, 58, 42, 72, 101, 31, 45, 43, 130, 107),
}  # fmt: skip
"""By residue in the order of `RESIDUES`: A C D E F G H I K L M N P Q R S T V W Y."""
STEP_PROPERTIES: dict[str, tuple[float, ...]] = {
    "shift": (
        -0.08, 0.23, -0.04, -0.06, 0.11, -0.01, 0.30, -0.04, 0.07, 0.07, -0.01, 0.23, -0.02, 0.07, 0.11, -0.08,
    ),
    "slide": (
        -1.27, -1.43, -1.50, -1.36, -1.46, -1.78, -1.89, -1.50, -1.70, -1.39, -1.78, -1.43, -1.45, -1.70, -1.46, -1.27,
    ),
    "rise": (3.18, 3.24, 3.30, 3.24, 3.09, 3.32, 3.30, 3.30, 3.38, 3.22, 3.32, 3.24, 3.26, 3.38, 3.09, 3.18),
    "tilt": (-0.8, 0.8, 0.5, 1.1, 1.0, 0.3, -0.1, 0.5, 1.3, 0.0, 0.3, 0.8, -0.2, 1.3, 1.0, -0.8),
    "roll": (7.0, 4.8, 8.5, 7.1, 9.9, 8.7, 12.1, 8.5, 9.4, 6.1, 12.1, 4.8, 10.7, 9.4, 9.9, 7.0),
    "twist": (31, 32, 30, 33, 31, 32, 27, 30, 32, 35, 32, 32, 32, 32, 31, 31),
}  # fmt: skip
"""By step in the order of 2-mers: AA AC AG AU CA … UU."""


def pseudo_protein(sequences: Sequence[str]) -> np.ndarray:
    """(S, 22) float32: shares of the twenty residues, then θ₁ and θ₂; the 22 of a sequence add up to 1."""
    distance = _distances(RESIDUE_PROPERTIES)
    counts = kmer_counts(sequences, RESIDUES, 1)
    return _joined(counts, in_blocks(sequences, RESIDUES, LAGS, lambda it: _theta(it, it.codes, distance)))


def pseudo_rna(sequences: Sequence[str]) -> np.ndarray:
    """(S, 18) float32: shares of the sixteen steps of two nucleotides, then θ₁ and θ₂; they add up to 1."""
    distance = _distances(STEP_PROPERTIES)
    counts = kmer_counts(sequences, NUCLEOTIDES, 2)
    return _joined(counts, in_blocks(sequences, NUCLEOTIDES, LAGS, lambda it: _theta(it, _steps(it.codes), distance)))


def _joined(counts: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Composition and w·θ ÷ their sum (Liu 2015, equations of PC-PseAAC-General)."""
    found: np.ndarray = np.concatenate([counts / np.maximum(counts.sum(1, keepdims=True), 1), WEIGHT * theta], axis=1)
    found /= np.maximum(found.sum(1, keepdims=True), 1e-12)
    return found


def _theta(letters: Letters, codes: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(S, LAGS) mean distance of the letters, or steps, that stand 1, 2, … places apart, unknown ones left out."""
    count = len(letters.lengths)
    found = np.zeros((count, LAGS))
    for lag in range(1, LAGS + 1):
        first, second = codes[:-lag], codes[lag:]
        owner = letters.owner[:-lag]
        at = np.flatnonzero((first >= 0) & (second >= 0) & (owner == letters.owner[lag:]))
        total = np.bincount(owner[at], distance[first[at], second[at]], minlength=count)
        found[:, lag - 1] = total / np.maximum(np.bincount(owner[at], minlength=count), 1)
    return found


def _steps(codes: np.ndarray) -> np.ndarray:
    """(T,) number of the 2-mer that begins at each letter; −1 where it has an unknown letter or the sequence ends."""
    after = np.append(codes[1:], -1)
    return np.where((codes >= 0) & (after >= 0), codes * len(NUCLEOTIDES) + after, -1)


def _distances(properties: dict[str, tuple[float, ...]]) -> np.ndarray:
    """(K, K) mean over the properties of their squared differences."""
    values = np.array(list(properties.values()), np.float64)
    values = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    found: np.ndarray = np.square(values[:, :, None] - values[:, None, :]).mean(0)
    return found
