"""How near new sequences are to those of a training set: the identity of the nearest one.

Shapes: Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossllm.pipeline.similarity.alignment import align_nearest
from crossllm.pipeline.similarity.mmseqs import search_nearest
from crossllm.pipeline.similarity.molecules import tanimoto_nearest
from crossllm.pipeline.similarity.rules import COVERAGE, EXACT_SEQUENCES, FLOOR, SHORT


def nearest_identity(
    queries: Sequence[str], targets: Sequence[str], modality: str, *, quiet: bool = False
) -> np.ndarray:
    """(Q,) float32: identity of each query to the nearest target; of molecules, Tanimoto of ECFP4.

    By the terms of the leak report (`rules`): over 80 % of both lengths, E ≤ 10⁻³, and 0 where none reaches the floor
    of the modality.  More than `EXACT_SEQUENCES` in all are looked up by MMseqs2, which misses some; short ones
    are aligned all the same where they are not too many.

    Args:
        queries, targets: normalised sequences, or canonical SMILES.
        modality: rna, protein or molecule.
        quiet: no progress bar.

    Raises:
        InputError: MMseqs2 is needed and cannot run, or this RDKit cannot read a molecule.
    """
    if not queries or not targets:
        return np.zeros(len(queries), np.float32)
    floor = FLOOR[modality]
    if modality == "molecule":
        found = tanimoto_nearest(queries, targets, quiet=quiet)
        return np.where(found >= floor, found, np.float32(0))
    if len(queries) + len(targets) <= EXACT_SEQUENCES:
        return align_nearest(queries, targets, modality, floor, quiet=quiet)
    found = search_nearest(queries, targets, modality, floor, quiet=quiet)
    short = [n for n, query in enumerate(queries) if len(query) <= SHORT]
    alike = [target for target in targets if len(target) * floor * COVERAGE <= SHORT]
    if short and alike and len(short) * len(alike) <= EXACT_SEQUENCES**2:
        exact = align_nearest([queries[n] for n in short], alike, modality, floor, quiet=quiet)
        found[short] = np.maximum(found[short], exact)
    return found
