"""Which molecules are alike: one parent structure, one scaffold, or a Tanimoto similarity of their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crossllm.cache.console.progress import progress
from crossllm.pipeline.features.fingerprints import generator, molecule_of
from crossllm.pipeline.similarity.hits import Hits
from crossllm.pipeline.similarity.rules import Molecules


def tanimoto_all(smiles: Sequence[str], floor: float, *, quiet: bool = False) -> Hits:
    """The pairs whose ECFP4 fingerprints have a Tanimoto similarity of at least `floor`."""
    from rdkit import DataStructs, rdBase

    made = generator()
    with rdBase.BlockLogs():
        prints = [made.GetFingerprint(molecule_of(text)) for text in smiles]
    found = []
    for n in progress(range(1, len(prints)), len(prints) - 1, "comparing molecules", quiet):
        values = np.array(DataStructs.BulkTanimotoSimilarity(prints[n], prints[:n]))
        found += [(n, other, float(values[other])) for other in np.flatnonzero(values >= floor).tolist()]
    return Hits.of(len(smiles), found)


def tanimoto_nearest(queries: Sequence[str], targets: Sequence[str], *, quiet: bool = False) -> np.ndarray:
    """(Q,) float32: highest Tanimoto similarity of each query's ECFP4 fingerprint to that of a target."""
    from rdkit import DataStructs, rdBase

    made = generator()
    with rdBase.BlockLogs():
        prints = [made.GetFingerprint(molecule_of(text)) for text in targets]
        asked = (made.GetFingerprint(molecule_of(text)) for text in queries)
        found = (
            max(DataStructs.BulkTanimotoSimilarity(one, prints), default=0.0)
            for one in progress(asked, len(queries), "comparing molecules with training", quiet)
        )
        return np.array([*found], np.float32)


def groups(smiles: Sequence[str], by: Molecules) -> np.ndarray:
    """(S,) cluster of each molecule by its parent structure (`inchikey`) or its scaffold."""
    name: Callable[[str], str] = _parent_block if by == "inchikey" else _scaffold
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name(text), len(numbers)) for text in smiles], np.int64)


def _parent_block(smiles: str) -> str:
    """The connectivity block of the parent's InChIKey: salts, protonation states and stereo twins share it.

    A molecule that InChI does not take keeps its SMILES for a name.
    """
    from rdkit import rdBase
    from rdkit.Chem import inchi
    from rdkit.Chem.MolStandardize import rdMolStandardize

    key_of: Any = inchi.MolToInchiKey
    with rdBase.BlockLogs():
        try:
            parent = rdMolStandardize.FragmentParent(molecule_of(smiles))
            parent = rdMolStandardize.Uncharger().uncharge(parent)
            return str(key_of(parent)).partition("-")[0] or smiles
        except (ValueError, RuntimeError):
            return smiles


def _scaffold(smiles: str) -> str:
    """The Murcko scaffold (Bemis & Murcko, J Med Chem 1996;39:2887); a molecule without a ring is its own."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold_of: Any = MurckoScaffold.MurckoScaffoldSmiles
    return str(scaffold_of(mol=molecule_of(smiles))) or smiles
