"""How a file of records is to be read, where it does not say so itself; shared by every command that reads one."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from crossllm.cache.errors import InputError


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

    def refuse_unused(self, modalities: Collection[str]) -> None:
        """Raise `InputError` for what was said of a modality that none of the files is of: it would do nothing."""
        for modality, fields in _ABOUT.items():
            said = [name for name in fields if getattr(self, name)]
            if said and modality not in modalities:
                flag = said[0].replace("_", "-")
                raise InputError(
                    f"--{flag} is about a {modality} file, this is {' and '.join(sorted(modalities))}; leave it out"
                )


_ABOUT = {
    "molecule": ("id_column", "smiles_column", "id_field", "smiles_first"),
    "protein": ("allow_nucleotides",),
}
"""Modality → fields of `ReadOptions` that are about its files alone."""
