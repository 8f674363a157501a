"""`profile` for molecules: per-atom features by RDKit without weights, every column named, bit-equal alone or batched.

What the pretrained graph encoders cannot see is here as well: charges, hydrogens, hybridisation.  All numbers are
finite for every molecule that RDKit reads; where a model has no parameters (Gasteiger's for metals), a flag says so.
Shapes: A atoms, C columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from crossllm.cache.records.record import Record
from crossllm.embed.encoder import Outputs

VERSION = 1
"""Raise when a column changes; it is part of the recipe, as RDKit's version is, whose descriptors these are."""
ELEMENTS = ("C", "N", "O", "S", "P", "F", "Cl", "Br", "I", "B", "Si", "Se")
HYBRIDISATIONS = ("SP", "SP2", "SP3")
RINGS = (3, 4, 5, 6, 7)
SHELLS = (1, 2, 3)
"""Bonds away; a shell is the atoms at exactly this distance."""

_ELEMENT = [*(f"is {e}" for e in ELEMENTS), "is another element", "is a wildcard"]
_DEGREE = [*(f"degree {n}" for n in range(6)), "degree 6 or more"]
_HYDROGENS = [*(f"{n} hydrogens" for n in range(4)), "4 hydrogens or more"]
_ELECTRONIC = [
    "formal charge", "formal charge, -1 to 1", "unpaired electrons",
    *(f"hybridisation {h.lower()}" for h in HYBRIDISATIONS), "other hybridisation",
    "aromatic", "conjugated bonds", "total valence",
]  # fmt: skip
_RING = ["in a ring", *(f"in a ring of {n}" for n in RINGS), "rings through it"]
_STEREO = ["chiral tag CW", "chiral tag CCW", "CIP R", "CIP S", "at an E double bond", "at a Z double bond"]
_MODELS = [
    # Gasteiger & Marsili, Tetrahedron 1980;36:3219 (electrons, cut to ±2; 0 and a flag where it has no parameters).
    "partial charge", "partial charge unknown",
    # Wildman & Crippen, J Chem Inf Comput Sci 1999;39:868, without the hydrogens' share (molar refractivity ÷ 5).
    "logP", "molar refractivity",
    # Ertl et al., J Med Chem 2000;43:3714 (Å² ÷ 20), and Labute, J Mol Graph Model 2000;18:464 (Å² ÷ 10).
    "polar surface", "surface",
]  # fmt: skip
_PHARMACOPHORE = ["hydrogen-bond donor", "hydrogen-bond acceptor", "rotatable bonds"]
_SIZE = ["covalent radius", "van der Waals radius"]
_CONTEXT = [
    *(f"is {e}" for e in ("C", "N", "O", "S")), "is a halogen", "formal charge", "aromatic", "in a ring",
    "partial charge", "logP", "polar surface", "hydrogen-bond donor", "hydrogen-bond acceptor",
]  # fmt: skip
_MOLECULE = ["log10 atoms", "log10 atoms of its fragment", "bonds to the farthest atom, log10", "charge per atom"]


class MoleculeProfileEncoder:
    """Implements `crossllm.embed.encoder.Encoder` for molecules."""

    name = "profile"
    modality = "molecule"
    limit: int | None = None

    def __init__(self) -> None:
        self.dim = len(columns())
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        """`(key, outputs)`, one output: rows (A, dim) float32, row i being atom i of the canonical SMILES."""
        from crossllm.embed.encoders.molecular_graph import read_smiles

        for record in records:
            yield record.key, (profile(read_smiles(record.sequence)),)


def columns() -> list[str]:
    """Names of the columns, in order: the documentation of a row."""
    shells = [f"{name}, mean {n} bond{'s' if n > 1 else ''} away" for n in SHELLS for name in _CONTEXT]
    counts = [f"log10 atoms {n} bond{'s' if n > 1 else ''} away" for n in SHELLS]
    return [*_own(), *shells, *counts, *_MOLECULE]


def _own() -> list[str]:
    return [*_ELEMENT, *_DEGREE, *_HYDROGENS, *_ELECTRONIC, *_RING, *_STEREO, *_MODELS, *_PHARMACOPHORE, *_SIZE]


def profile(molecule: Any) -> np.ndarray:
    """Rows (A, C) float32 of an RDKit molecule."""
    from rdkit import Chem

    atoms = list(molecule.GetAtoms())
    own = np.concatenate(
        [
            np.array([[*_element(a), *_local(a), *_rings(molecule, a)] for a in atoms], np.float64),
            _stereo(molecule),
            _models(molecule),
            _pharmacophore(molecule),
            np.array([_radii(molecule, a) for a in atoms], np.float64),
        ],
        axis=1,
    )
    distance = Chem.GetDistanceMatrix(molecule)  # (A, A) bonds; 10⁸ between fragments
    rows = np.concatenate([own, *_shells(own, distance), _whole(own, distance)], axis=1)
    return np.asarray(rows, np.float32)


def _one_hot(index: int, size: int) -> list[float]:
    """`size` numbers; an index beyond the last counts as the last."""
    return [float(min(index, size - 1) == n) for n in range(size)]


def _element(atom: Any) -> list[float]:
    symbol = atom.GetSymbol()
    if atom.GetAtomicNum() == 0:
        return _one_hot(len(ELEMENTS) + 1, len(_ELEMENT))
    return _one_hot(ELEMENTS.index(symbol) if symbol in ELEMENTS else len(ELEMENTS), len(_ELEMENT))


def _local(atom: Any) -> list[float]:
    """Degree, hydrogens, and the block `_ELECTRONIC`."""
    charge, hybridisation = atom.GetFormalCharge(), str(atom.GetHybridization())
    kind = HYBRIDISATIONS.index(hybridisation) if hybridisation in HYBRIDISATIONS else len(HYBRIDISATIONS)
    conjugated = sum(bond.GetIsConjugated() for bond in atom.GetBonds())
    return [
        *_one_hot(atom.GetDegree(), len(_DEGREE)),
        *_one_hot(atom.GetTotalNumHs(), len(_HYDROGENS)),
        charge, max(-1, min(1, charge)), atom.GetNumRadicalElectrons(),
        *_one_hot(kind, len(HYBRIDISATIONS) + 1),
        atom.GetIsAromatic(), conjugated, atom.GetTotalValence(),
    ]  # fmt: skip


def _rings(molecule: Any, atom: Any) -> list[float]:
    info, here = molecule.GetRingInfo(), atom.GetIdx()
    through = info.NumAtomRings(here)
    return [through > 0, *(info.IsAtomInRingOfSize(here, n) for n in RINGS), through]


def _stereo(molecule: Any) -> np.ndarray:
    """(A, 6): the block `_STEREO`."""
    out = np.zeros((molecule.GetNumAtoms(), len(_STEREO)))
    for atom in molecule.GetAtoms():
        tag = str(atom.GetChiralTag())
        code = atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else ""
        out[atom.GetIdx(), :4] = tag == "CHI_TETRAHEDRAL_CW", tag == "CHI_TETRAHEDRAL_CCW", code == "R", code == "S"
    for bond in molecule.GetBonds():
        for n, names in enumerate((("STEREOE", "STEREOTRANS"), ("STEREOZ", "STEREOCIS"))):
            if str(bond.GetStereo()) in names:
                out[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()], 4 + n] = 1
    return out


def _models(molecule: Any) -> np.ndarray:
    """(A, 6): the block `_MODELS`."""
    from rdkit.Chem import rdMolDescriptors, rdPartialCharges

    rdPartialCharges.ComputeGasteigerCharges(molecule, 12, False)
    charge = np.array([float(atom.GetProp("_GasteigerCharge")) for atom in molecule.GetAtoms()])
    known = np.isfinite(charge)
    crippen = np.array(rdMolDescriptors._CalcCrippenContribs(molecule))
    polar = np.array(list(rdMolDescriptors._CalcTPSAContribs(molecule)))
    labute = np.array(list(rdMolDescriptors._CalcLabuteASAContribs(molecule)[0]))
    scaled = [np.where(known, charge, 0).clip(-2, 2), ~known, crippen[:, 0], crippen[:, 1] / 5, polar / 20, labute / 10]
    table: np.ndarray = np.stack(scaled, axis=1)
    table[~np.isfinite(table)] = 0
    return table


def _pharmacophore(molecule: Any) -> np.ndarray:
    """(A, 3): the block `_PHARMACOPHORE`, by the patterns of Lipinski's rule."""
    from rdkit.Chem import Lipinski

    out = np.zeros((molecule.GetNumAtoms(), len(_PHARMACOPHORE)))
    for column, pattern in enumerate((Lipinski.HDonorSmarts, Lipinski.HAcceptorSmarts, Lipinski.RotatableBondSmarts)):
        for match in molecule.GetSubstructMatches(pattern, maxMatches=1 << 20):
            for atom in match:
                out[atom, column] += 1
    out[:, :2] = out[:, :2] > 0
    return out


def _radii(molecule: Any, atom: Any) -> list[float]:
    from rdkit.Chem import GetPeriodicTable

    table, number = GetPeriodicTable(), atom.GetAtomicNum()
    return [table.GetRcovalent(number), table.GetRvdw(number)]


def _shells(own: np.ndarray, distance: np.ndarray) -> list[np.ndarray]:
    """Mean of `_CONTEXT` over each shell (zero where it is empty), then how many atoms each holds."""
    names = _own()
    halogens = own[:, [names.index(f"is {e}") for e in ("F", "Cl", "Br", "I")]].sum(axis=1)
    context = np.stack([halogens if n == "is a halogen" else own[:, names.index(n)] for n in _CONTEXT], axis=1)
    means, counts = [], []
    for shell in SHELLS:
        member = (distance == shell).astype(np.float64)
        count = member.sum(axis=1, keepdims=True)
        # Not a matrix product: its sums may be taken in another order on another machine.
        sums = np.stack([context[row > 0].sum(axis=0) for row in member])
        means.append(sums / np.maximum(count, 1))
        counts.append(np.log10(1 + count))
    return [*means, *counts]


def _whole(own: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(A, 4): the block `_MOLECULE`."""
    size = len(own)
    together = distance < 1e6
    farthest = np.where(together, distance, 0).max(axis=1)
    charge = own[:, _own().index("formal charge")].sum() / size
    fragment, whole = np.log10(together.sum(axis=1)), np.full(size, math.log10(size))
    return np.stack([whole, fragment, np.log10(1 + farthest), np.full(size, charge)], axis=1)
