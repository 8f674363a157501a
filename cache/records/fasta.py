"""FASTA → records of RNA or protein."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import Problem, printable
from crossllm.cache.files.text_file import read_lines
from crossllm.cache.records.modality import AMBIGUOUS, CERTAIN, OnBad
from crossllm.cache.records.record import Record, key_of, normalise
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.validation import validated_records

_NOT_ALLOWED = {m: re.compile(f"[^{CERTAIN[m]}{''.join(AMBIGUOUS[m])}]") for m in CERTAIN}
_UNKNOWN = {m: re.compile(f"[{''.join(AMBIGUOUS[m])}]") for m in CERTAIN}
_PLAIN = {m: re.compile(f"[{CERTAIN[m]}]+") for m in CERTAIN}
"""What is normal as it stands, and has nothing to be noted but perhaps that it is all nucleotides."""
_NUCLEOTIDES_ONLY = "only A, C, G, T/U or N: a nucleotide sequence given as a protein?"
_NUCLEOTIDES = re.compile("[ACGTUN]+")


class _Raw(NamedTuple):
    line: int
    header: str
    sequence: str
    bad: bool


def read_fasta(path: Path, modality: str, on_bad: OnBad = "error") -> Records:
    """Read a FASTA file (plain or gzip) into records, all of its errors reported together.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    problems: list[Problem] = []
    notes: Counter[str] = Counter()

    def found() -> Iterator[tuple[int, Record]]:
        for raw in _raw_records(path, problems):
            record = None if raw.bad else _to_record(path, modality, raw, notes, problems)
            if record is not None:
                yield raw.line, record

    return validated_records(path, modality, found(), notes, problems, on_bad)


def _raw_records(path: Path, problems: list[Problem]) -> Iterator[_Raw]:
    """Split the file at its headers.  A record that holds a bad line is yielded with `bad` set."""
    start, header, bad = 0, "", False
    parts: list[str] = []
    for number, text, problem in read_lines(path):
        if text.startswith(">"):
            if start:
                yield _Raw(start, header, "".join(parts), bad)
            start, header, bad, parts = number, text[1:], False, []
        elif problem is None and not text.strip():
            continue
        elif problem is None:
            problem = _line_problem(text, before_first=start == 0)
            parts.append(text.rstrip())
        if problem is not None and not bad:  # a bad record is one problem, not one a line
            problems.append(Problem(path, number, problem))
            bad = True
    if start:
        yield _Raw(start, header, "".join(parts), bad)


def _line_problem(text: str, *, before_first: bool) -> str | None:
    if text.startswith(";"):
        return "a ';' comment line; remove it, FASTA has only '>' headers"
    if before_first:
        return f"text before the first '>' header: '{printable(text, 20)}'; start each record with '>id'"
    if ">" in text:
        return f"'>' inside a sequence at column {text.index('>') + 1}; put the header on a line of its own"
    return None


def _to_record(path: Path, modality: str, raw: _Raw, notes: Counter[str], problems: list[Problem]) -> Record | None:
    words = raw.header.split(maxsplit=1)
    if not words:
        problems.append(Problem(path, raw.line, "a header without an id; write '>id'"))
        return None
    if not raw.sequence:
        problems.append(Problem(path, raw.line, "a record without a sequence; remove it or add the sequence", words[0]))
        return None
    if not raw.sequence.isascii():  # before upper(), which would turn 'ſ' into S and 'ß' into two letters
        odd = next(i for i, letter in enumerate(raw.sequence) if not letter.isascii())
        problems.append(Problem(path, raw.line, _letter_problem(modality, raw.sequence, odd), words[0]))
        return None
    id_, sequence = words[0], raw.sequence
    if _PLAIN[modality].fullmatch(sequence):
        if modality == "protein" and _NUCLEOTIDES.fullmatch(sequence):
            notes[_NUCLEOTIDES_ONLY] += 1
        return Record(key_of(modality, sequence), id_, sequence, len(sequence))
    sequence = normalise(modality, raw.sequence)
    if match := _NOT_ALLOWED[modality].search(sequence):
        what = _letter_problem(modality, raw.sequence, match.start())
        problems.append(Problem(path, raw.line, what, words[0]))
        return None
    if not sequence:
        problems.append(Problem(path, raw.line, "a sequence of '*' alone; remove the record", words[0]))
        return None
    _count(modality, raw.sequence, sequence, notes)
    return Record(key_of(modality, sequence), id_, sequence, len(sequence))


def _letter_problem(modality: str, sequence: str, position: int) -> str:
    letter = printable(sequence[position])
    what = f"letter '{letter}' at {'nucleotide' if modality == 'rna' else 'residue'} {position + 1} of {len(sequence)}"
    if letter in "-.":
        return f"{what} is an alignment gap; give the unaligned sequence"
    if letter == "*":
        return f"{what} is a stop inside the sequence; cut or split the sequence there"
    if letter.isspace() or letter.isdigit():
        return f"{what} is no letter; remove spaces and numbering"
    if modality == "rna" and letter.upper() in CERTAIN["protein"]:
        return f"{what} is no nucleotide; is this a protein? (--modality protein)"
    return f"{what} is not in the {modality} alphabet ({CERTAIN[modality]} and {''.join(AMBIGUOUS[modality])})"


def _count(modality: str, given: str, sequence: str, notes: Counter[str]) -> None:
    """Count, by record, what `normalise` changed and which letters will be unknown to an encoder."""
    upper = given.upper()
    if upper != given:
        notes["lower case, read as upper case"] += 1
    if _UNKNOWN[modality].search(sequence):
        notes["unknown or ambiguous letters, kept as unknown"] += 1
    if modality == "rna" and "T" in upper:
        notes["T, read as U"] += 1
    if modality == "protein" and upper.endswith("*"):
        notes["trailing '*', cut"] += 1
    if modality == "protein" and _NUCLEOTIDES.fullmatch(sequence):
        notes[_NUCLEOTIDES_ONLY] += 1
