"""`morgan`: which substructures are centred at an atom, without weights (Rogers & Hahn, J Chem Inf Model 2010;50:742).

The largest value of each column over a molecule's atoms is its Morgan fingerprint (ECFP4, `BITS` bits); a bit can stand
for several substructures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from crossllm.cache.records.record import Record
from crossllm.embed.encoder import Outputs

VERSION = 1
"""Raise when a column changes; it is part of the recipe, as RDKit's version is."""
RADIUS = 2
"""Bonds: substructures of 0, 1 and 2 bonds around an atom."""
BITS = 1024


class MorganEncoder:
    """Implements `crossllm.embed.encoder.Encoder` for molecules."""

    name = "morgan"
    modality = "molecule"
    limit: int | None = None

    def __init__(self) -> None:
        from rdkit.Chem import rdFingerprintGenerator

        self.dim = BITS
        self.notes: Counter[str] = Counter()
        self._generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        """`(key, outputs)`, one output: rows (A, BITS) float32 of 0 and 1; row i is atom i of the canonical SMILES."""
        from crossllm.embed.encoders.molecular_graph import read_smiles

        for record in records:
            yield record.key, (self._rows(read_smiles(record.sequence)),)

    def _rows(self, molecule: Any) -> np.ndarray:
        from rdkit.Chem import rdFingerprintGenerator

        found = rdFingerprintGenerator.AdditionalOutput()
        found.AllocateAtomToBits()
        self._generator.GetFingerprint(molecule, additionalOutput=found)
        rows = np.zeros((molecule.GetNumAtoms(), BITS), np.float32)
        for atom, bits in enumerate(found.GetAtomToBits()):
            rows[atom, list(bits)] = 1
        return rows
