"""When two sequences or molecules count as similar: the terms of a cluster split and of the leak report."""

from __future__ import annotations

from typing import Literal, NamedTuple

Molecules = Literal["inchikey", "scaffold", "ecfp"]
COVERAGE = 0.8
"""Least part of *both* lengths that an alignment covers.  Of the shorter one alone, 15-nt RNAs chain everything."""
E_VALUE = 1e-3
"""Largest number of chance alignments as good."""
IDENTITY = {"rna": 0.8, "protein": 0.3, "molecule": 0.7}
"""Modality → least identity: identical columns ÷ columns of the alignment; of molecules, Tanimoto of ECFP4.

30 % of a protein is where homology is sure for its usual lengths (Rost, Protein Eng 1999;12:85); 80 % of an RNA is
CD-HIT-EST's lowest threshold.
"""
FLOOR = {"rna": 0.5, "protein": 0.3, "molecule": 0.3}
"""Modality → least identity that is kept at all: what the histograms of the nearest sequence start from."""
EXACT_SEQUENCES = 5000
"""Most sequences that are aligned all against all; above, MMseqs2 looks for the pairs that are worth it."""

SHORT = 100
"""Letters of a sequence that is aligned with its like all the same."""


class Rule(NamedTuple):
    """When two of one modality are similar."""

    modality: str
    identity: float
    """From 0 to 1."""
    molecules: Molecules = "inchikey"
    """What puts two molecules into one cluster: the parent's connectivity block, the scaffold, or ECFP4."""

    def in_words(self) -> str:
        """As the leak report and `data split` say it."""
        if self.modality != "molecule":
            return f"≥ {self.identity:.0%} identity over ≥ {COVERAGE:.0%} of both lengths, E ≤ {E_VALUE:g}"
        return {
            "inchikey": "one parent structure by InChIKey's first block",
            "scaffold": "one Murcko scaffold",
            "ecfp": f"Tanimoto of ECFP4 ≥ {self.identity:g}",
        }[self.molecules]


def default_rule(modality: str) -> Rule:
    """The rule of a modality that nobody chose otherwise for."""
    return Rule(modality, IDENTITY[modality])
