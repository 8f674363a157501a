"""Tables of users: TSV or CSV with a header, read over the whole file by one reader for pairs and molecules alike.

RFC 4180: a quoted cell may hold the delimiter, doubled quotes and line breaks.  A row is read whole or not at all; what
cannot be told apart with certainty, such as a quote that is never closed, stops the file, as half of a row would
otherwise be taken for a row.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import MAX_LINE_BYTES, Line

DELIMITERS = {"\t": "TAB", ",": "','", ";": "';'", "|": "'|'"}
TO_TABS = r"tr -s ' ' '\t' < FILE > NEW"
"""What makes a table by TABs of one by blanks; cells must hold none."""
_QUOTED = re.compile(r'"[^"]*"')
SEP = re.compile(r'"?sep=([\t,;|])"?')
"""Excel's own first line, which names the delimiter."""

# Python's own bound is 131,072 characters a cell and one for the whole process; a line is bounded anyway.
csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))


class Row(NamedTuple):
    """One row of a table."""

    line: int
    """Where it begins."""
    cells: list[str]
    """Without blanks around them; one a named column."""
    problem: str | None
    """Why it is no good row; None for one that is."""


class TextTable(NamedTuple):
    """A table whose header is read."""

    line: int
    """Of the header."""
    header: list[str]
    """Names of the columns, without blanks around them; those without a name are left out."""
    delimiter: str
    rows: Iterator[Row]


class _Feed:
    """Lines as the csv module takes them; where the record at hand begins, ends, and what is wrong with its lines."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.start = self.last = 0
        self.problem: str | None = None

    def begin(self) -> None:
        """Another record."""
        self.start, self.problem = 0, None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.start, self.last = self.start or line.number, line.number
        self.problem = self.problem or line.problem
        return line.text + "\n"


def delimiter_of(text: str) -> str | None:
    """What separates the cells of a header: TAB before all, else the most frequent outside of quotes; None: nothing."""
    if "\t" in text:
        return "\t"
    bare = _QUOTED.sub("", text) if text.count('"') > 1 else text
    best = max(",;|", key=bare.count)
    return best if best in bare else None


def open_table(path: Path, lines: Iterator[Line], notes: Counter[str]) -> TextTable | None:
    """Read the header of a table, and the rest as its rows are asked for; None for a file without a line.

    Args:
        path: for messages.
        lines: of the file; blank ones are passed over.
        notes: what is left out is counted here while rows are read.

    Raises:
        InputError: the header, or the table as a whole, cannot be read.
    """
    first = next((line for line in lines if line.text.strip()), None)
    if first is not None and (sep := SEP.fullmatch(first.text.strip(" "))):
        delimiter: str | None = sep[1]
        first = next((line for line in lines if line.text.strip()), None)
    else:
        delimiter = None if first is None else delimiter_of(first.text)
    if first is None:
        return None
    if first.problem is not None:
        raise InputError(str(Problem(path, first.number, first.problem)))
    feed = _Feed(_chain(first, lines))
    reader = csv.reader(feed, delimiter=delimiter or "\t", strict=True, skipinitialspace=True)
    try:
        cells = next(reader)
    except csv.Error as error:
        raise _unreadable(path, feed, error) from None
    if feed.problem is not None:
        raise InputError(str(Problem(path, feed.last, feed.problem)))
    names = [name.strip() for name in cells]
    header = [name for name in names if name]
    return TextTable(first.number, header, delimiter or "\t", _rows(path, feed, reader, names, notes))


def _chain(first: Line, rest: Iterator[Line]) -> Iterator[Line]:
    yield first
    yield from rest


def _rows(path: Path, feed: _Feed, reader: Iterator[list[str]], names: list[str], notes: Counter[str]) -> Iterator[Row]:
    named = [place for place, name in enumerate(names) if name]
    unnamed = 0
    rows, one_more = 0, 0
    while True:
        feed.begin()
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            if feed.last > feed.start or "unexpected end" in str(error) or "limit" in str(error):
                raise _unreadable(path, feed, error) from None
            yield Row(feed.start, [], f"{error}; double the quotes inside a quoted cell, or remove them")
            continue
        if not cells or cells == [""]:
            if feed.problem is not None:
                yield Row(feed.start, [], feed.problem)
            continue
        if not any(cells) and feed.problem is None:  # as spreadsheets write rows that were cleared
            notes["without a value in any column, passed over"] += 1
            continue
        rows += 1
        one_more += len(cells) == len(names) + 1 and bool(cells[-1])
        while len(cells) > len(names) and not cells[-1]:  # as spreadsheets write empty columns
            cells.pop()
        problem = feed.problem
        if problem is None and len(cells) != len(names):
            problem = _width_problem(cells, names, feed)
        if problem is None:
            unnamed += len(named) < len(names) and any(cells[at] for at in range(len(names)) if not names[at])
            yield Row(feed.start, [cells[at] for at in named], None)
        else:
            yield Row(feed.start, [], problem)
    if rows > 1 and one_more == rows:
        raise InputError(
            f"{path}: every row has {len(names) + 1} columns, the header {len(names)}: row names, as R writes them? "
            "give the first column a name in the header, or save with row.names = FALSE"
        )
    if unnamed:
        notes["a column without a name (a row number?), left out"] += unnamed


def _width_problem(cells: list[str], names: list[str], feed: _Feed) -> str:
    found, expected = f"{len(cells)} column{'s' * (len(cells) != 1)}", f"the header has {len(names)}"
    to = f" (to line {feed.last})" if feed.last > feed.start else ""
    if len(cells) == 1 and len(names) > 1:
        other = next((word for mark, word in DELIMITERS.items() if mark in cells[0]), None)
        other = other or ("blanks" if " " in cells[0] else None)
        if other is not None:
            how = f": `{TO_TABS}`" if other == "blanks" else ""
            return f"{found}, {expected}{to}; separate columns as the header does, {other} are here{how}"
    return f"{found}, {expected}{to}; separate columns as the header does, and quote cells that hold the delimiter"


def _unreadable(path: Path, feed: _Feed, error: csv.Error) -> InputError:
    """A table that cannot be read on: where a quote ends, and with it the row, is not known."""
    if "limit" in str(error):
        what = f"a cell of more than {MAX_LINE_BYTES} bytes; is a quote never closed?"
    elif "unexpected end" in str(error):
        what = "a quote is not closed to the end of the file; close or remove it"
    elif feed.last > feed.start:
        what = (
            f"a quoted cell runs from here to line {feed.last}, where more follows its end; close or remove the quote"
        )
    else:
        what = f"{printable(str(error))}; double the quotes inside a quoted cell, or remove them"
    return InputError(f"{path}:{feed.start}: {what}")
