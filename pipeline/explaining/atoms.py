"""A molecule with its atoms coloured by what they add, drawn by RDKit."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossllm.pipeline.features.fingerprints import molecule_of

FOR, AGAINST = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)
"""Of atoms that raise and lower the output: blue and vermilion (Okabe & Ito 2008), as in the tracks."""
SIZE = (600, 450)
"""Pixels."""


def atoms_svg(smiles: str, values: np.ndarray, unit: str) -> str:
    """The drawing as SVG; the larger an atom's value, the deeper its colour.

    Args:
        smiles: canonical, of the record: atom i of it is row i.
        values: (L,) of the first L atoms; an atom without a value stays white.
        unit: of the values.
    """
    from rdkit import rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    with rdBase.BlockLogs():
        molecule = molecule_of(smiles)
    rdDepictor.Compute2DCoords(molecule)
    largest = float(np.abs(values).max()) or 1.0
    colours = {atom: _shade(value / largest) for atom, value in enumerate(values.tolist())}
    drawing = rdMolDraw2D.MolDraw2DSVG(*SIZE)
    options: Any = drawing.drawOptions()  # RDKit's stubs give its settings the type of the whole
    options.useBWAtomPalette()
    options.highlightRadius = 0.4
    options.fillHighlights = True
    drawing.DrawMolecule(
        rdMolDraw2D.PrepareMolForDrawing(molecule),
        legend=f"blue raises, orange lowers; deepest: {largest:.2g} {unit}",
        highlightAtoms=list(colours),
        highlightAtomColors=colours,
        highlightBonds=[],
    )
    drawing.FinishDrawing()
    found: str = drawing.GetDrawingText()
    return found


def _shade(share: float) -> tuple[float, float, float]:
    """From white to full colour for shares from 0 to ±1."""
    colour = FOR if share > 0 else AGAINST
    red, green, blue = (1 - abs(share) * (1 - part) for part in colour)
    return red, green, blue
