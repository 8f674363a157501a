"""`rpiseq_rf`: RPISeq's random forest on conjoint triads (Muppirala et al., BMC Bioinformatics 2011;12:489).

Protein: frequencies of triads over seven residue classes, 343.  RNA: frequencies of tetranucleotides, 256.  A forest of
500 trees with √599 features at a cut.

Differs: frequencies are counts ÷ length.  Its code was never published; the number of trees is that of common practice
(the R package LION, HAN-Siyu/ncProR@944179e, takes 3,000).  Its support vector machine (RPISeq-SVM) is left out.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from crossllm.pipeline.baselines.forest import drawn, fit_forest, votes
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUE_CLASSES, Alphabet, frequencies
from crossllm.pipeline.systems.fitted import refitting

TREES = 500
KMERS = {"protein": (Alphabet(RESIDUE_CLASSES, (3,)),), "rna": (Alphabet(NUCLEOTIDES, (4,)),)}


def triads(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """(S, 343) of the proteins and (S, 256) of the RNAs, float32, side A first."""
    sides = zip(material.sequences, material.sides, strict=True)
    first, second = (frequencies(sequences, KMERS[side.modality]) for sequences, side in sides)
    return first, second


def _predict(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    features, seed = triads(material), material.config.seed
    fitted = drawn(fitted, seed, "rpiseq_rf")

    def rows_of(pairs: np.ndarray) -> np.ndarray:
        return material.joined(features, pairs)

    forest = fit_forest(RandomForestClassifier, TREES, seed, rows_of(fitted), material.dataset.labels[fitted])
    return votes(forest, rows_of, asked)


rpiseq_rf = refitting(_predict)
"""The system."""
