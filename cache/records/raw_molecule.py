"""What a molecule is before RDKit has seen it, whatever the form of its file."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_SMILES = 2000
"""Characters of a longer SMILES are refused unread."""
_ATOM = re.compile(r"[A-Za-z]")
_SMILES = re.compile(r"(Cl|Br|[BCNOSPFIbcnosp]|\[[^\[\]\s]+\]|[=#$:/\\().%+@*0-9-])+")


class RawMolecule(NamedTuple):
    """One molecule of a file."""

    line: int
    id: str
    structure: str
    """SMILES, or a mol block."""
    hint: str = ""
    """What to do for want of an id."""
    headless: bool = False
    """A line without a header above it, so that the order of the two is a matter of convention."""


def like_smiles(text: str) -> bool:
    """Whether it is made of what SMILES are made of, and of nothing else."""
    return len(text) <= MAX_SMILES and _SMILES.fullmatch(text) is not None and _ATOM.search(text) is not None
