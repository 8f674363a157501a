"""What is explained: pairs by their ids, the sequences that these stand for, and the rows of both.

Ids and files are read as `crossllm predict` reads them; rows that no cache has are made by the run's own recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import note, say_notes
from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.cache.records.modality import UNITS
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.record import Record
from crossllm.model.tokens import POOLED
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.data.pairs import Columns
from crossllm.pipeline.use.pair_table import PairTable
from crossllm.pipeline.use.partners import Partners, Reading, open_partners
from crossllm.pipeline.use.predictor import Predictor, Where
from crossllm.pipeline.use.rows import RowsOfRun, open_chained
from crossllm.pipeline.use.run_data import RunData, run_data
from crossllm.pipeline.use.trained_run import TrainedRun

IdPair = tuple[str, str]
"""Ids of A and of B."""


class Sources(NamedTuple):
    """Where sequences and rows come from, beside the run's own dataset and cache."""

    a: Side | None = None
    """File of the first partners; None: ids are those of the run's dataset."""
    b: Side | None = None
    data: Path | None = None
    """Folder of the run's dataset; None: the one that the run lies in."""
    where: Where = Where()
    reading: ReadOptions = ReadOptions()
    columns: Columns = Columns(label=None)
    """Of a table of pairs."""


class Inputs:
    """The pairs of a run, and what stands behind their ids.

        inputs = Inputs(run, Path("pairs.tsv"), Sources())
        inputs.embed()
        record, rows = inputs.partner(0, "rna0000")              # 0: side A

    Args:
        run: a finished one.
        pairs: ids, or a table of them; a pair that stands there twice is taken once.
        sources: of what the run's dataset lacks.

    Raises:
        InputError: one vector a sequence, bad rows of the table or an id without a sequence, a file of another
            modality, or no dataset of the run.
    """

    def __init__(self, run: TrainedRun, pairs: Path | Sequence[IdPair], sources: Sources) -> None:
        self.run, self._where = run, sources.where
        self.data: RunData = run_data(run, sources.data)
        for side, recipe in zip("ab", self.data.recipes, strict=True):
            if run.window == POOLED or recipe.pooled:
                raise InputError(
                    f"{run.folder}: has one vector a sequence (side {side}), and nothing to explain by residue; train "
                    "on rows of residues, with --tokens residue or window:K"
                )
        self._partners = open_partners(self.data, (sources.a, sources.b), Reading("error", sources.reading))
        self.pairs: list[IdPair] = (
            _of_table(pairs, self._partners, sources.columns)
            if isinstance(pairs, Path)
            else _known(pairs, self._partners)
        )
        self._rows: tuple[RowsOfRun, RowsOfRun] | None = None

    def embed(self, *, quiet: bool = False) -> int:
        """Embed the sequences that no cache has rows of; how many encoders that took.

        Raises:
            InputError, Conflict: one cannot be embedded (`Predictor.embed`).
        """
        made = Predictor(self.run, self.data, self._partners, self._where, quiet=quiet).embed()
        if failed := [why for one in made for why in one.failures.values()]:
            raise InputError(f"{printable(why, 300)}; it could not be embedded" for why in failed)
        self._rows = None
        for side, records, recipe in zip("ab", self._records, self.data.recipes, strict=True):
            if cut := sum(recipe.rows_of(record.length) < record.length for record in records):
                note(f"note: {cut} of {len(records)} sequences of side {side} are cut, {recipe.long}: no places beyond")
        return sum(one.asked > 0 for one in made)

    def partner(self, side: int, id_: str) -> tuple[Record, np.ndarray]:
        """The record of an id, and its rows (L, D) float32: one a place, the first N under truncate:N.

        Raises:
            CacheCorrupt: the cache holds another number of rows.
        """
        recipe, number = self.data.recipes[side], self._partners[side].number(id_)
        assert number is not None  # every id of `pairs` has a sequence
        record = self._records[side][number]
        rows = self.rows[side][record.key]
        if len(rows) != (expected := recipe.rows_of(record.length)):
            raise CacheCorrupt(
                f"{self.rows[side].folder}: record {record.key.hex()} has {len(rows)} rows, {expected} "
                f"{UNITS[recipe.modality]} were expected; embed into another --cache"
            )
        return record._replace(id=id_), np.array(rows, np.float32)

    @cached_property
    def _records(self) -> tuple[list[Record], list[Record]]:
        """Of each side's numbers; the dataset's file of sequences is read once."""
        a, b = (own.records(range(len(own.keys))) for own in self._partners)
        return a, b

    @property
    def rows(self) -> tuple[RowsOfRun, RowsOfRun]:
        """Of both sides, as the caches are when it is first asked for."""
        if self._rows is None:
            folders = [folder for folder in (self.data.cache_dir, self._where.cache_dir) if folder is not None]
            a, b = (open_chained(folders, recipe) for recipe in self.data.recipes)
            self._rows = a, b
        return self._rows

    def mean_row(self, side: int, most: int) -> np.ndarray:
        """(D,) float32: mean over the rows of the sequences that the run was trained on, of `most` at most.

        Raises:
            InputError: none of them has rows any more.
        """
        rows = self.rows[side]
        trained = sorted(self.data.trained[side])
        absent = rows.absent(trained)
        keys = [key for key, gone in zip(trained, absent.tolist(), strict=True) if not gone]
        if not keys:
            raise InputError(f"{self.data.cache_dir}: no sequence of side {'ab'[side]} has rows; embed it again")
        total, count = np.zeros(rows.recipe.dim), 0
        for n in np.unique(np.linspace(0, len(keys) - 1, min(len(keys), most)).astype(int)).tolist():
            own = rows[keys[n]]
            total += own.sum(0, dtype=np.float64)
            count += len(own)
        return (total / count).astype(np.float32)


def _of_table(path: Path, partners: tuple[Partners, Partners], columns: Columns) -> list[IdPair]:
    """The distinct pairs of a table, in its order; other columns are passed over."""
    table = PairTable(path, partners, columns, ())
    table.check()
    at_a, at_b = table.header.index(columns.a), table.header.index(columns.b)
    read = [(row.cells[at_a], row.cells[at_b]) for row in table]
    found = list(dict.fromkeys(read))
    say_notes(path, table.notes, (), "rows")
    if len(found) < len(read):
        note(f"note: {path}: {len(read) - len(found)} rows repeat a pair; each is explained once")
    return found


def _known(pairs: Sequence[IdPair], partners: tuple[Partners, Partners]) -> list[IdPair]:
    """The distinct pairs, their ids held to the sequences."""
    problems = [
        f"pairs: '{printable(id_)}' of side {own.side} has no sequence, in what was given or the run's dataset"
        for own, ids in zip(partners, ([a for a, _ in pairs], [b for _, b in pairs]), strict=True)
        for id_ in dict.fromkeys(ids)
        if own.number(id_) is None
    ]
    if problems or not pairs:
        raise InputError(problems or "pairs: holds no pair; give at least one")
    return list(dict.fromkeys(pairs))
