"""`read_records`: a file of sequences or molecules → `Records`, whatever its format."""

from __future__ import annotations

from pathlib import Path

from crossllm.cache.errors import InputError
from crossllm.cache.files.file_kind import wrong_sequences
from crossllm.cache.files.text_file import first_bytes
from crossllm.cache.records.fasta import read_fasta
from crossllm.cache.records.modality import OnBad, check_modality
from crossllm.cache.records.molecules import read_molecules
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.record_list import Records


def read_records(path: Path, modality: str, on_bad: OnBad = "error", asked: ReadOptions = ReadOptions()) -> Records:
    """The records of a file: FASTA for rna and protein; SMILES, CSV or SDF for molecules.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    check_modality(modality)
    head = first_bytes(path)
    if (kind := wrong_sequences(head, modality == "molecule")) is not None:
        raise InputError(f"{path}: {kind}")
    if (problem := _other_records(modality, head)) is not None:
        raise InputError(f"{path}: {problem}")
    if modality == "molecule":
        return read_molecules(path, on_bad, asked)
    return read_fasta(path, modality, on_bad, asked)


def _other_records(modality: str, head: bytes) -> str | None:
    """Sequences given as molecules, or the other way round."""
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:40] if line.strip()]
    first = lines[0].lstrip()[:1] if lines else b""
    if modality == "molecule" and first == b">" and len(lines) > 1 and b"\t" not in lines[1]:  # an id may begin so
        return "is FASTA; molecules are SMILES, CSV or SDF: use --modality rna or protein for sequences"
    if modality != "molecule" and first != b">" and b"$$$$" in head and b"M  END" in head:
        return f"is an SD file of molecules; {modality} is FASTA: use --modality molecule"
    return None
