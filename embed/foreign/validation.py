"""Everything that can be wrong with embeddings made elsewhere, found before anything is written.

First the shapes of all arrays, then the values of those that are to be stored; one array is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.progress import progress
from crossllm.cache.errors import Problem, RowsRefused, printable
from crossllm.cache.records.record import Record
from crossllm.cache.store.writer import stored_rows
from crossllm.embed.foreign.entry import BadEntry, Entry, Source, read_rows, shape_of
from crossllm.embed.foreign.matching import Matched, check_length

_ROWS_AT_ONCE = 1024


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


def check_shapes(
    source: Source,
    matched: Matched,
    records: Sequence[Record],
    order: Sequence[Entry],
    problems: list[Problem],
    pooled: bool = False,
) -> Sound:
    """The arrays with one row a residue and the common width; what is wrong with the others goes to `problems`.

    Args:
        source: what holds them.
        matched: the arrays by key.
        records: of the FASTA.
        order: the arrays as the source lists them.
        problems: is added to.
        pooled: one row a sequence is right, whatever its length.
    """
    shapes: dict[bytes, tuple[int, int]] = {}
    entries: dict[bytes, Entry] = {}
    repeated = 0
    digests = _digests(source, [e for found in matched.by_key.values() if len(found) > 1 for e in found], order)
    for record in records:
        if record.key in entries or record.key not in matched.by_key:
            continue
        found = matched.by_key.pop(record.key)
        try:
            shapes[record.key] = shape_of(found[0])
            if not pooled:
                check_length(found[0], shapes[record.key][0], record)
            for other in found[1:]:
                _check_same(digests, found[0], other, record)
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


def in_source_order(pending: Mapping[bytes, Entry], order: Sequence[Entry]) -> dict[bytes, Entry]:
    """The same, in the order of the files: a source keeps one open at a time."""
    place = {(entry.file, entry.name): n for n, entry in enumerate(order)}
    return dict(sorted(pending.items(), key=lambda item: place[item[1].file, item[1].name]))


def _digests(source: Source, repeated: list[Entry], order: Sequence[Entry]) -> dict[tuple[Path, str], bytes | BadEntry]:
    """What the values of arrays that stand for one sequence are, so that no two need be in memory."""
    wanted = {(entry.file, entry.name) for entry in repeated}
    found: dict[tuple[Path, str], bytes | BadEntry] = {}
    for entry in order:
        if (entry.file, entry.name) in wanted:
            try:
                shape_of(entry)  # before anything is read
                found[entry.file, entry.name] = _digest(read_rows(source, entry))
            except BadEntry as bad:
                found[entry.file, entry.name] = bad
    return found


def _digest(rows: np.ndarray) -> bytes:
    """SHA-256 of shape and values; equal values of another type, and -0 and 0, are the same."""
    digest = hashlib.sha256(repr(rows.shape).encode())
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        digest.update((rows[start : start + _ROWS_AT_ONCE].astype(np.float64) + 0.0).tobytes())
    return digest.digest()


def _check_same(
    digests: Mapping[tuple[Path, str], bytes | BadEntry], first: Entry, other: Entry, record: Record
) -> None:
    """Raise `BadEntry` unless two arrays of one sequence hold the same rows."""
    one, two = digests[first.file, first.name], digests[other.file, other.name]
    for bad in (one, two):
        if isinstance(bad, BadEntry):
            raise bad
    if one != two:
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
