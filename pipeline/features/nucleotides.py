"""Shares of G and C by place in the codon, and the power spectrum of an RNA's electron-ion potentials.

Shapes: S sequences, L letters of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossllm.pipeline.features.kmers import NUCLEOTIDES
from crossllm.pipeline.features.letters import Letters, encode, in_blocks, per_sequence

POTENTIAL = (0.1260, 0.1340, 0.0806, 0.1335)
"""Electron-ion interaction potentials of A, C, G, U (T): Nair and Sreenadhan, Bioinformation 2006;1:197."""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
TOP = 0.1
"""Share of the spectrum, the strongest, whose quantiles are features."""


def gc_shares(sequences: Sequence[str]) -> np.ndarray:
    """(S, 5) float32: share of G and C in all, at the first, second and third places of three, and their spread.

    The spread is half the sum of the squared differences of the three.  As RNAincoder's GC features, whose three
    spreads, of other frames, are this one but for the ends.
    """
    return in_blocks(sequences, NUCLEOTIDES, 5, _gc)


def _gc(letters: Letters) -> np.ndarray:
    inside = np.flatnonzero(letters.place < letters.lengths[letters.owner])
    strong = inside[(letters.codes[inside] == 1) | (letters.codes[inside] == 2)]  # C, G
    of_all = per_sequence(letters, inside, letters.place[inside] % 3, 3)
    of_gc = per_sequence(letters, strong, letters.place[strong] % 3, 3)
    thirds = of_gc / np.maximum(of_all, 1)
    spread = np.square(thirds - np.roll(thirds, 1, axis=1)).sum(1, keepdims=True) / 2
    whole = of_gc.sum(1, keepdims=True) / np.maximum(of_all.sum(1, keepdims=True), 1)
    return np.concatenate([whole, thirds, spread], axis=1)


def eiip_spectrum(sequences: Sequence[str]) -> np.ndarray:
    """(S, 8) float32 of the power spectrum |X|² ÷ L of the potentials without their mean.

    Peak at a period of three nucleotides, mean power, peak ÷ mean, and five quantiles of the strongest tenth, as
    LncFinder has them (Han et al., Brief Bioinform 2019;20:2009).  Unknown letters have the mean potential; a sequence
    of fewer than three letters, or of one alone, has a spectrum of zeros.
    """
    found = np.zeros((len(sequences), 3 + len(QUANTILES)), np.float32)
    for number, sequence in enumerate(sequences):
        if (length := len(sequence)) < 3:
            continue
        codes = encode([sequence], NUCLEOTIDES).codes[:-1]
        known = codes >= 0
        values = np.where(known, np.array(POTENTIAL)[codes], 0.0)
        values = np.where(known, values - values[known].mean(), 0.0) if known.any() else values
        power = np.square(np.abs(np.fft.fft(values)[1:])) / length  # X₀ is 0 without the mean
        peak, mean = power[round(length / 3) - 1], power.mean()
        strongest = np.sort(power)[-max(int(TOP * len(power)), 1) :]
        found[number] = [peak, mean, peak / mean if mean > 1e-20 else 0.0, *np.quantile(strongest, QUANTILES)]
    return found
