"""RNA, protein, molecule: their names, alphabets and units.  What flags need of them costs no import."""

from __future__ import annotations

from typing import Literal

from crossllm.cache.errors import InputError, printable

MODALITIES = ("rna", "protein", "molecule")
INPUT_NAMES = {"rna": "rna.fasta", "protein": "protein.fasta", "molecule": "molecules.smi"}
"""Modality → the file of its records in a dataset."""
UNITS = {"rna": "nucleotides", "protein": "residues", "molecule": "atoms"}
"""Modality → what one row stands for."""
KINDS = {"rna": "sequences", "protein": "sequences", "molecule": "molecules"}
"""Modality → what its records are called."""

OnBad = Literal["error", "skip"]

CERTAIN = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The alphabet proper, by modality."""
AMBIGUOUS = {
    "rna": {"R": "AG", "Y": "CU", "S": "CG", "W": "AU", "K": "GU", "M": "AC", "B": "CGU", "D": "AGU", "H": "ACU",
            "V": "ACG", "N": "ACGU", "X": "ACGU"},
    "protein": {"B": "DN", "Z": "EQ", "J": "IL", "U": "C", "O": "K", "X": CERTAIN["protein"]},
}  # fmt: skip
"""IUPAC codes that are kept as unknown, and the letters each may stand for (U and O: their closest residue)."""


def check_modality(modality: str) -> None:
    """Raise `InputError` for a modality this version cannot read."""
    if modality not in MODALITIES:
        raise InputError(f"modality '{printable(modality)}' is not known; one of: {', '.join(MODALITIES)}")
