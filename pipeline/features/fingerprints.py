"""Morgan fingerprints of molecules (Rogers & Hahn, J Chem Inf Model 2010;50:742), by RDKit.

Shapes: S molecules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossllm.cache.errors import InputError, printable

RADIUS = 2
BITS = 2048


def morgan(smiles: Sequence[str]) -> np.ndarray:
    """(S, `BITS`) uint8, 0 or 1: which substructures of up to `RADIUS` bonds around an atom occur (ECFP4).

    Args:
        smiles: canonical, as they stand in the records: RDKit has read each before.

    Raises:
        InputError: this RDKit cannot read one.
    """
    from rdkit import rdBase

    made, bits = generator(), np.zeros((len(smiles), BITS), np.uint8)
    with rdBase.BlockLogs():
        for number, text in enumerate(smiles):
            bits[number] = made.GetFingerprintAsNumPy(molecule_of(text))
    return bits


def generator() -> Any:
    """RDKit's generator of these fingerprints."""
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def molecule_of(smiles: str) -> Any:
    """RDKit's molecule of a record's SMILES.

    Raises:
        InputError: this RDKit cannot read it.
    """
    from rdkit import Chem

    if (molecule := Chem.MolFromSmiles(smiles)) is None:
        raise InputError(
            f"molecule '{printable(smiles)}': this version of RDKit cannot read it, the one that imported it "
            "could; install that version, or import the dataset again with --on-bad skip"
        )
    return molecule
