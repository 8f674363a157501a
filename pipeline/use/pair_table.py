"""A table of new pairs, read as it is asked for and never whole in memory; every column of it is kept.

The same reader, and the same rules, as those of `crossllm data import`; there is no label to be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, Problem, bad_lines, printable
from crossllm.cache.files.file_kind import wrong_table
from crossllm.cache.files.text_file import first_bytes, read_lines
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.record import id_problem
from crossllm.cache.records.table import TextTable, open_table
from crossllm.pipeline.data.pairs import Columns, Side, positions
from crossllm.pipeline.use.partners import Partners

MOST_PROBLEMS = 10_000
"""Bad rows that are listed; of more, the count."""


class Row(NamedTuple):
    """One pair."""

    cells: list[str]
    """All columns of the table."""
    a: int
    """Number of its sequence among `Partners`."""
    b: int


class PairTable:
    """A table of pairs whose ids are known, opened as often as it is iterated over.

    Args:
        path: TSV or CSV, plain or gzip.
        partners: of both sides.
        columns: names of the id columns.
        added: names of the columns that the output adds; none may stand in the table.
        on_bad: `error` raises at the end of the first pass, `skip` leaves bad rows out.
    """

    def __init__(
        self,
        path: Path,
        partners: tuple[Partners, Partners],
        columns: Columns,
        added: tuple[str, ...],
        on_bad: OnBad = "error",
    ) -> None:
        self.path, self._partners, self._columns, self._on_bad = path, partners, columns, on_bad
        self._ids = tuple(Side(name, side.ids) for name, side in zip(columns.named, partners, strict=True))
        self.without: tuple[frozenset[int], frozenset[int]] = frozenset(), frozenset()
        """Numbers of sequences that have no rows: their pairs are passed over."""
        table, self.notes = self._open(added)
        self.header = tuple(table.header)
        self.problems: list[Problem] = []
        """The first bad rows, of the last pass."""
        self.bad = 0
        """All of them."""

    def check(self) -> int:
        """Read the whole table once, and number all of its sequences; how many good rows it has.

        Raises:
            InputError: bad rows, one line each (`on_bad="error"`), or no good one.
        """
        count = sum(1 for _ in self)
        if self.bad and (self._on_bad == "error" or not count):
            more = self.bad - len(self.problems)
            rest = [f"{self.path}: {more} more bad rows"] if more else []
            left = [] if count or self._on_bad == "error" else [f"{self.path}: no pairs are left; check the file"]
            raise InputError([*bad_lines(self.problems), *rest, *left])
        if not count:
            raise InputError(f"{self.path}: holds no pair, a header line alone; write a row for each pair")
        return count

    def __iter__(self) -> Iterator[Row]:
        table, self.notes = self._open(())
        at_a, at_b = positions(self.path, table, self._columns, ())
        self.problems, self.bad = [], 0
        side_a, side_b = self._partners
        without_a, without_b = self.without
        for line, cells, problem in table.rows:
            if problem is None:
                a, b = side_a.number(cells[at_a]), side_b.number(cells[at_b])
                if a is not None and b is not None:
                    if a in without_a or b in without_b:
                        self._bad(line, "a sequence of this pair could not be embedded; see the notes above")
                        continue
                    yield Row(cells, a, b)
                    continue
                problem = self._why(cells, (at_a, a), (at_b, b))
                if tuple(cells) == self.header:
                    problem = "the header once more; were two files joined? remove the line"
            self._bad(line, problem)

    def _bad(self, line: int, problem: str) -> None:
        self.bad += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(self.path, line, problem))

    def _why(self, cells: list[str], *found: tuple[int, int | None]) -> str:
        """What is wrong with a row of which an id has no sequence."""
        for (at, number), side, other in zip(found, self._ids, self._ids[::-1], strict=True):
            if number is not None:
                continue
            if (problem := id_problem(cells[at])) is not None:
                return f"{side.column}: {problem}"
            same = self._partners[0].modality == self._partners[1].modality
            what = side.stranger(cells[at], None if same else other)
            return (
                f"{side.column} '{printable(cells[at])}' stands neither in a file that was given nor in the run's "
                f"dataset; {what}"
            )
        raise AssertionError("both ids have a sequence")

    def _open(self, added: tuple[str, ...]) -> tuple[TextTable, Counter[str]]:
        """The table behind its header, which is checked where columns are to be added."""
        notes: Counter[str] = Counter()
        if (kind := wrong_table(first_bytes(self.path))) is not None:
            raise InputError(f"{self.path}: {kind}")
        table = open_table(self.path, read_lines(self.path), notes)
        if table is None:
            raise InputError(f"{self.path}: is empty; a table with the header 'a_id b_id' is expected, TABs between")
        header = table.header
        if len(set(header)) != len(header):
            raise InputError(f"{self.path}:{table.line}: a column name stands twice in the header; rename one")
        positions(self.path, table, self._columns, ())
        if clash := next((name for name in header if name in added), None):
            raise InputError(
                f"{self.path}:{table.line}: has a column '{clash}', which is to be added; rename or remove it"
            )
        return table, notes
