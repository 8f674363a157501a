"""SMILES → molecular graph in the vocabulary of Hu et al. 2020 (arXiv:1905.12265): atom type and chirality, bond type
and direction.  Row i is atom i of the canonical SMILES.

What the vocabulary lacks is mapped to the nearest that it has, and noted; so are charges and isotopes, which are not in
it.  Hydrogens that a canonical SMILES does not spell out are not in it either, and are neither seen nor noted.  RDKit
decides which bonds are aromatic and which way stereo bonds point, so that its version is part of the recipe
(`crossllm.embed.encoder.rdkit_version`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ATOM_TYPES = 120
"""Index: atomic number − 1; 119 is the mask token of the pre-training."""
ATOM_MASK = 119
CHIRALITIES = {"CHI_UNSPECIFIED": 0, "CHI_TETRAHEDRAL_CW": 1, "CHI_TETRAHEDRAL_CCW": 2}
BOND_TYPES = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}
SELF_LOOP = 4
BOND_MASK = 5
BOND_TYPE_ROWS = 6
"""Rows of the table of bond types: the four, the self-loop and the mask."""
DIRECTIONS = {"NONE": 0, "ENDUPRIGHT": 1, "ENDDOWNRIGHT": 2}
_DATIVE = ("DATIVE", "DATIVEONE", "DATIVEL", "DATIVER")


class Graph(NamedTuple):
    """One molecule: A atoms, E directed edges, every bond once in each direction, without self-loops."""

    atoms: np.ndarray
    """(A, 2) int64: atom type, chirality."""
    edges: np.ndarray
    """(2, E) int64: from, to."""
    bonds: np.ndarray
    """(E, 2) int64: bond type, direction."""
    notes: tuple[str, ...]
    """What this vocabulary cannot tell of the molecule."""


def graph_of(smiles: str) -> Graph:
    """The graph of a canonical SMILES.

    Raises:
        ValueError: RDKit cannot read it, so it is no canonical SMILES.
    """
    molecule = read_smiles(smiles)
    notes: dict[str, None] = {}
    atoms = np.array([_atom(atom, notes) for atom in molecule.GetAtoms()], np.int64).reshape(-1, 2)
    edges, bonds = [], []
    for bond in molecule.GetBonds():
        a, b, kind = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), _bond(bond, notes)
        edges += [(a, b), (b, a)]
        bonds += [kind, kind]
    return Graph(
        atoms,
        np.array(edges, np.int64).reshape(-1, 2).T,
        np.array(bonds, np.int64).reshape(-1, 2),
        tuple(notes),
    )


def read_smiles(smiles: str) -> Any:
    """RDKit's molecule of a canonical SMILES, without RDKit's log; its atoms stand in the order of the SMILES."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"'{smiles[:60]}' is no canonical SMILES")
    return molecule


def _atom(atom: Any, notes: dict[str, None]) -> tuple[int, int]:
    number = atom.GetAtomicNum()
    if number == 0:
        notes["with wildcard atoms, encoded as <mask>"] = None
    if atom.GetFormalCharge():
        notes["with formal charges, which this encoder cannot see"] = None
    if atom.GetIsotope():
        notes["with isotopes, which this encoder cannot see"] = None
    tag = str(atom.GetChiralTag())
    if tag not in CHIRALITIES:
        notes["with chirality other than tetrahedral, encoded as none"] = None
    return number - 1 if number else ATOM_MASK, CHIRALITIES.get(tag, 0)


def _bond(bond: Any, notes: dict[str, None]) -> tuple[int, int]:
    name = str(bond.GetBondType())
    if name in _DATIVE:
        notes["with dative bonds, encoded as single"] = None
        name = "SINGLE"
    elif name not in BOND_TYPES:
        notes["with bonds of another type, encoded as <mask>"] = None
    return BOND_TYPES.get(name, BOND_MASK), DIRECTIONS.get(str(bond.GetBondDir()), 0)


def packed(graphs: list[Graph]) -> Graph:
    """Several graphs as one: atoms in order, edges shifted to where their atoms stand in it."""
    starts = np.cumsum([0, *(len(graph.atoms) for graph in graphs[:-1])])
    return Graph(
        np.concatenate([graph.atoms for graph in graphs]),
        np.concatenate([graph.edges + start for graph, start in zip(graphs, starts, strict=True)], axis=1),
        np.concatenate([graph.bonds for graph in graphs]),
        (),
    )
