"""From what a parser found to the records of a file: repeated ids merged or refused, all errors reported together."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from crossllm.cache.errors import InputError, Problem, bad_lines
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.record import Record, id_problem
from crossllm.cache.records.record_list import RecordList, Records

SHOWN = 20
"""Faults that are shown where `--on-bad skip` leaves none."""


def validated_records(
    path: Path,
    modality: str,
    found: Iterable[tuple[int, Record]],
    notes: Counter[str],
    problems: list[Problem],
    on_bad: OnBad,
) -> Records:
    """The records of a file from `(line, record)`, in flat memory.

    An id that no table could give back is bad.  Equal ids with equal sequences are merged with a note; an id with two
    sequences is an error naming both lines.

    Args:
        path: the file, for messages.
        modality: of the records.
        found: the good records; reading on may add to `notes` and `problems`.
        notes: what was normalised, counted.
        problems: the bad records.
        on_bad: `error` raises if there are problems, `skip` returns them.
    """
    lines = array("q")

    def records() -> Iterator[Record]:
        for line, record in found:
            if (problem := id_problem(record.id)) is not None:
                problems.append(Problem(path, line, problem, record.id))
                continue
            if not record.id.isprintable():  # of no width, mostly: it is data, and no two people see the same id
                notes["id with a character that nobody sees, kept"] += 1
            lines.append(line)
            yield record

    read = RecordList.of(records())
    left_out, ambiguous = _repeated(path, read, lines, notes, problems)
    if problems and on_bad == "error":
        raise InputError(bad_lines(sorted(problems, key=lambda problem: problem.line)))
    for place in ambiguous:
        what = "this id has another sequence further down; rename one"
        problems.append(Problem(path, lines[place], what, read[place].id))
    kept = read.take(np.flatnonzero(~left_out)) if left_out.any() else read
    if not kept:
        bad = f", {len(problems)} bad ones were left out" if problems else ""
        form = "SMILES, CSV or SDF file of one or more molecules" if modality == "molecule" else "FASTA file"
        faults = bad_lines(sorted(problems, key=lambda problem: problem.line))
        bad += f"; the first {SHOWN} faults are above" if len(faults) > SHOWN else ""
        raise InputError([*faults[:SHOWN], f"{path}: holds no records{bad}; a {form} is expected"])
    return Records(modality, kept, notes, sorted(problems, key=lambda problem: problem.line))


def _repeated(
    path: Path, read: RecordList, lines: array[int], notes: Counter[str], problems: list[Problem]
) -> tuple[np.ndarray, set[int]]:
    """Which records to leave out for their id, (n,) bool, and the first record of each id with two sequences."""
    left_out, keys = np.zeros(len(read), bool), read.keys
    ambiguous: set[int] = set()
    for place, first in read.repeated_ids():
        left_out[place] = True
        if (keys[place] == keys[first]).all():
            notes["repeated id with the same sequence, kept once"] += 1
            continue
        ambiguous.add(first)
        what = f"this id stands on line {lines[first]} with another sequence; rename one of the two"
        problems.append(Problem(path, lines[place], what, read[place].id))
    left_out[list(ambiguous)] = True
    return left_out, ambiguous
