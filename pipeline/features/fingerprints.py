"""Morgan fingerprints of molecules (Rogers & Hahn, J Chem Inf Model 2010;50:742), by RDKit.

Shapes: S molecules.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    bits = np.zeros((len(smiles), BITS), np.uint8)
    with rdBase.BlockLogs():
        for number, text in enumerate(smiles):
            if (molecule := Chem.MolFromSmiles(text)) is None:
                raise InputError(
                    f"molecule '{printable(text)}': this version of RDKit cannot read it, the one that imported it "
                    "could; install that version, or import the dataset again with --on-bad skip"
                )
            bits[number] = generator.GetFingerprintAsNumPy(molecule)
    return bits
