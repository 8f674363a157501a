"""Everything that can be wrong with embeddings made elsewhere, found before anything is written.

First the shapes of all arrays, then the values of those that are to be stored; one array is in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cache.errors import Problem, RowsRefused, printable
from cache.records import Record
from cache.writer import stored_rows
from embed.foreign import BadEntry, Entry, Source, read_rows, shape_of
from embed.foreign_names import Matched, check_length
from embed.progress import progress


class Sound(NamedTuple):
    """The arrays whose shape fits."""

    entries: dict[bytes, Entry]
    """Key → array, in the order of the FASTA."""
    dim: int
    """Width of a row, D; 0 where nothing is left."""
    compute: str
    """Type of the values as the source has them; several joined by '+'."""
    repeated: int
    """Arrays that were there twice, with the same rows."""


class Values(NamedTuple):
    """What reading the values of the arrays found."""

    refused: dict[bytes, Problem]
    rounded: int
    """Arrays with a value that the storage dtype cannot hold exactly."""


def check_shapes(source: Source, matched: Matched, records: Sequence[Record], problems: list[Problem]) -> Sound:
    """The arrays with one row a residue and the common width; what is wrong with the others goes to `problems`."""
    shapes: dict[bytes, tuple[int, int]] = {}
    entries: dict[bytes, Entry] = {}
    repeated = 0
    for record in records:
        if record.key in entries or record.key not in matched.by_key:
            continue
        found = matched.by_key.pop(record.key)
        try:
            shapes[record.key] = shape_of(found[0])
            check_length(found[0], shapes[record.key][0], record)
            for other in found[1:]:
                _check_same(source, found[0], other, record)
        except BadEntry as bad:
            problems.append(problem_of(found[0], bad))
            continue
        entries[record.key] = found[0]
        repeated += len(found) - 1
    dim = Counter(shapes[key][1] for key in entries).most_common(1)[0][0] if entries else 0
    for key in [key for key in entries if shapes[key][1] != dim]:
        what = f"rows of {shapes[key][1]} values where most arrays have {dim}; one width is taken, import it by itself"
        problems.append(Problem(entries[key].file, 0, what, entries[key].name))
        del entries[key]
    return Sound(entries, dim, "+".join(sorted({e.dtype for e in entries.values()})), repeated)


def _check_same(source: Source, first: Entry, other: Entry, record: Record) -> None:
    """Raise `BadEntry` unless two arrays of one sequence hold the same rows."""
    same = shape_of(first) == shape_of(other) and np.array_equal(read_rows(source, first), read_rows(source, other))
    if not same:
        names = f"'{printable(first.name)}' and '{printable(other.name)}'"
        raise BadEntry(
            f"{names} hold different rows for one sequence, that of '{printable(record.id)}'; remove one of the two"
        )


def check_values(source: Source, pending: Mapping[bytes, Entry], dtype: str, quiet: bool) -> Values:
    """Read every array that is to be stored, once, as it would be stored."""
    values = Values({}, 0)
    for key, entry in progress(pending.items(), len(pending), "checking", quiet):
        try:
            rows = read_rows(source, entry)
            stored = stored_rows(rows, np.dtype(dtype))
        except (BadEntry, RowsRefused) as bad:
            values.refused[key] = problem_of(entry, bad)
            continue
        values = values._replace(rounded=values.rounded + (not np.array_equal(stored, rows)))
    return values


def problem_of(entry: Entry, bad: Exception) -> Problem:
    """What is wrong with an array, as one line of the report."""
    return Problem(entry.file, 0, str(bad), entry.name)
