"""`Record(key, id, sequence, length)`: what a sequence or molecule is to every later stage, and how it is keyed.

A record's key is the SHA-256 of its modality and normalised sequence, so equal sequences are embedded once whatever
their headers say.  An id is data: it lives in the `records/` table and never becomes a path.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from crossllm.cache.errors import InputError, printable

NORMALISER = 1
"""Version of `normalise`; it is part of the `records/` table and of every recipe."""
_NOT_IN_IDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""TAB and newline, which our own tables are made of, and what no reader of text takes."""
_ATOM = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOSPFIbcnosp*]")


class Record(NamedTuple):
    """One sequence or molecule as every later stage sees it."""

    key: bytes
    """SHA-256 of modality and normalised sequence, 32 bytes."""
    id: str
    """As the input names it (FASTA: the first word of the header), case kept."""
    sequence: str
    """Normalised: RNA in upper case with U for T; protein in upper case without a trailing `*`; canonical SMILES."""
    length: int
    """Nucleotides, residues, or atoms of the canonical SMILES in their order there; its rows: `Recipe.rows_of`."""


def id_problem(id_: str) -> str | None:
    """Why an id could not be read back from a table: what is accepted here is read back equal, everywhere."""
    if match := _NOT_IN_IDS.search(id_):
        what = {"\t": "a TAB", "\n": "a line break", "\ufeff": "a byte-order mark"}.get(match.group())
        return f"an id with {what or f'character 0x{ord(match.group()):02x}'} at column {match.start() + 1}; rename it"
    if not id_:
        return "an empty id; give it one"
    return "an id that begins or ends with a blank; remove it" if id_ != id_.strip() else None


def check_id(id_: str) -> None:
    """What a writer of ids asks before anything is written: see `id_problem`.

    Raises:
        InputError: it could not be read back.
    """
    if (problem := id_problem(id_)) is not None:
        raise InputError(f"record '{printable(id_)}': {problem}")


def key_of(modality: str, sequence: str) -> bytes:
    """The key of a normalised sequence, 32 bytes: SHA-256 of modality, a newline and the sequence, in ASCII."""
    return hashlib.sha256(f"{modality}\n{sequence}".encode("ascii")).digest()


def letters_of(modality: str, sequence: str) -> tuple[str, ...]:
    """What each row stands for: the letters of a normalised sequence, the atoms as its canonical SMILES spells them."""
    return tuple(_ATOM.findall(sequence) if modality == "molecule" else sequence)


def length_of(modality: str, sequence: str) -> int:
    """Rows of a normalised sequence: its letters, or the atoms that a canonical SMILES spells out."""
    return len(letters_of(modality, sequence)) if modality == "molecule" else len(sequence)


def record_of(modality: str, id_: str, sequence: str) -> Record:
    """The record of a normalised sequence."""
    return Record(key_of(modality, sequence), id_, sequence, length_of(modality, sequence))


def normalise(modality: str, sequence: str) -> str:
    """The normalised sequence, before any check of its letters: upper case, T→U (RNA), trailing `*` cut (protein).

    A molecule is normalised by RDKit, in `crossllm.cache.records.molecules.canonical_smiles`.
    """
    if modality == "molecule":
        raise ValueError("a molecule is normalised by crossllm.cache.records.molecules.canonical_smiles")
    upper = sequence.upper()
    return upper.replace("T", "U") if modality == "rna" else upper.removesuffix("*")
