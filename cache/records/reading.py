"""`read_records`: a file of sequences or molecules → `Records`, whatever its format."""

from __future__ import annotations

from pathlib import Path

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
    if modality == "molecule":
        return read_molecules(path, on_bad, asked)
    return read_fasta(path, modality, on_bad, asked)
