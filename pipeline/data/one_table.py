"""One table that holds sequences and labels (`rna_sequence,smiles,pKd`) → records with made ids, and pairs of them.

An id is made of the sequence's key, so that equal sequences are one record whatever the row: `rna-3f9c01ab`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.fasta import refuse_nucleotides, refuse_residues, sequence_of
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.molecules import smiles_of
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.rdkit_child import RdkitChild
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.records.record_list import Records
from crossllm.pipeline.data.labels import LabelNames, Task
from crossllm.pipeline.data.pairs import Columns, Pairs, Where, read_pairs

_DIGITS = 8
"""Of the key in an id; 64 where two sequences share these."""


class OneTable(NamedTuple):
    """What one table held."""

    a: Records
    b: Records
    pairs: Pairs


class _Column:
    """Makes records of the cells of one column, each distinct cell once."""

    def __init__(self, modality: str, child: RdkitChild) -> None:
        self.modality, self._child = modality, child
        self.notes: Counter[str] = Counter()
        self.records: dict[str, Record] = {}
        self._cells: dict[str, tuple[str, str | None]] = {}

    def named(self, cell: str) -> tuple[str, str | None]:
        """The id of a cell's sequence, and what is wrong with it."""
        if cell not in self._cells:
            self._cells[cell] = self._read(cell)
        return self._cells[cell]

    def _read(self, cell: str) -> tuple[str, str | None]:
        if self.modality == "molecule":
            sequence, problem = smiles_of(cell, self._child.canonical, self.notes)
        else:
            sequence, problem = sequence_of(self.modality, cell, self.notes)
        if problem is not None:
            return "", problem
        key = record_of(self.modality, "x", sequence).key.hex()
        id_ = f"{self.modality}-{key[:_DIGITS]}"
        if self.records.get(id_, record_of(self.modality, id_, sequence)).sequence != sequence:
            id_ = f"{self.modality}-{key}"
        self.records[id_] = record_of(self.modality, id_, sequence)
        return id_, None

    def found(self) -> Records:
        """The records in the order of the table."""
        return Records(self.modality, list(self.records.values()), self.notes, [])


def read_one_table(
    path: Path,
    sides: tuple[tuple[str, str], tuple[str, str]],
    label: str | None,
    where: tuple[Where, ...],
    task: Task | None,
    names: LabelNames,
    reading: ReadOptions,
    on_bad: OnBad,
) -> OneTable:
    """Read a table of sequences and labels.

    Args:
        path: TSV or CSV with a header line.
        sides: modality and column of each partner.
        label: column of the labels; None: every row is a positive.
        where, task, names, on_bad: as of `read_pairs`.
        reading: whether proteins of nucleotides alone are meant.

    Raises:
        InputError: one line a bad row, or a table that as a whole cannot be used.
    """
    (modality_a, a), (modality_b, b) = sides
    if a == b:
        raise InputError(f"--b {modality_b}={printable(b)}: is the column of --a; name two columns of {path}")
    with RdkitChild() as child:
        column_a = _Column(modality_a, child)
        column_b = column_a if modality_a == modality_b else _Column(modality_b, child)
        pairs = read_pairs(
            path, columns=Columns(a, b, label), where=where, task=task, names=names,
            named=(column_a.named, column_b.named), on_bad=on_bad,
        )  # fmt: skip
    table = OneTable(column_a.found(), column_b.found(), pairs)
    for records in (table.a, table.b):
        if records.modality == "protein" and not reading.allow_nucleotides:
            refuse_nucleotides(path, records)
        elif records.modality == "rna":
            refuse_residues(path, records)
    return table
