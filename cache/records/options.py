"""How a file of records is to be read, where it does not say so itself; shared by every command that reads one."""

from __future__ import annotations

from typing import NamedTuple


class ReadOptions(NamedTuple):
    """What the user said of the files; each is None or False where nothing was said."""

    id_column: str | None = None
    """Of a table of molecules."""
    smiles_column: str | None = None
    id_field: str | None = None
    """Data field of an SD file that holds the id, in place of the title line."""
    smiles_first: bool = False
    """Lines without a header are a SMILES, blanks and the id."""
    allow_nucleotides: bool = False
    """Proteins made of A, C, G, T, U and N alone are meant as such."""
