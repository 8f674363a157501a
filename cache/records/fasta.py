"""FASTA → records of RNA or protein."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import control_problem, read_lines
from crossllm.cache.records.modality import AMBIGUOUS, CERTAIN, OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.record import Record, key_of, normalise
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.validation import validated_records

_NOT_ALLOWED = {m: re.compile(f"[^{CERTAIN[m]}{''.join(AMBIGUOUS[m])}]") for m in CERTAIN}
_UNKNOWN = {m: re.compile(f"[{''.join(AMBIGUOUS[m])}]") for m in CERTAIN}
_PLAIN = {m: re.compile(f"[{CERTAIN[m]}]+") for m in CERTAIN}
"""What is normal as it stands, and has nothing to be noted but perhaps that it is all nucleotides."""
_NO_NUCLEOTIDES = set(CERTAIN["protein"]) - set(CERTAIN["rna"] + "T") - set(AMBIGUOUS["rna"])
"""E, F, I, L, P, Q: a residue, and no code of a nucleotide."""
_NUCLEOTIDES_ONLY = "only A, C, G, T/U or N: a nucleotide sequence given as a protein?"
_NUCLEOTIDES_NEARLY = "90 % or more A, C, G, T/U or N: a nucleotide sequence given as a protein?"
_RESIDUES = "less than half A, C, G, U or N: a protein given as RNA?"
_NUCLEOTIDES = re.compile("[ACGTUN]+")

_UNALIGN = "sed '/^>/!s/[-.]//g' FILE > NEW"
"""Of aligned FASTA and A3M, whose lower-case inserts are residues of the sequence like all others."""
SURE = 12
"""Letters from which a protein of A, C, G, T, U and N alone is too unlikely to be one."""


class _Raw(NamedTuple):
    line: int
    header: str
    sequence: str
    bad: bool


def read_fasta(path: Path, modality: str, on_bad: OnBad = "error", asked: ReadOptions = ReadOptions()) -> Records:
    """Read a FASTA file (plain or gzip) into records, all of its errors reported together.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    problems: list[Problem] = []
    notes: Counter[str] = Counter()

    def found() -> Iterator[tuple[int, Record]]:
        for raw in _raw_records(path, problems, notes):
            record = None if raw.bad else _to_record(path, modality, raw, notes, problems)
            if record is not None:
                yield raw.line, record

    records = validated_records(path, modality, found(), notes, problems, on_bad)
    if modality == "rna":
        refuse_residues(path, records)
    elif not asked.allow_nucleotides:
        refuse_nucleotides(path, records)
    return records


def sequence_of(modality: str, text: str, notes: Counter[str]) -> tuple[str, str | None]:
    """The normalised sequence of one cell or line, and what is wrong with it; what was changed goes to `notes`."""
    problems: list[Problem] = []
    record = _to_record(Path(), modality, _Raw(0, "x", text, False), notes, problems)
    return ("", problems[0].what) if record is None else (record.sequence, None)


def refuse_nucleotides(path: Path, records: Records) -> None:
    """RNA given as protein is embedded without a fault, and every number after that is wrong: ask."""
    nearly = records.notes[_NUCLEOTIDES_NEARLY]
    alike = records.notes[_NUCLEOTIDES_ONLY] + nearly
    if 2 * alike <= len(records.records):
        return
    long = next((r for r in records.records if r.length >= SURE and _nucleotide_note(r.sequence)), None)
    if long is not None:
        hold = "are made of A, C, G, T/U or N by 90 % or more" if nearly else "hold only A, C, G, T/U or N"
        raise InputError(
            f"{path}: {alike} of {len(records.records)} sequences {hold} (e.g. "
            f"'{printable(long.id)}', {long.length} letters): nucleotides given as proteins? use "
            "--modality rna (rna=FILE), or insist by --allow-nucleotides"
        )


def refuse_residues(path: Path, records: Records) -> None:
    """Peptides whose letters all happen to be codes of nucleotides would be embedded without a fault."""
    alike = records.notes[_RESIDUES]
    if 2 * alike > len(records.records):
        first = next(r for r in records.records if _like_residues(r.sequence))
        raise InputError(
            f"{path}: {alike} of {len(records.records)} sequences are less than half A, C, G, T/U or N (e.g. "
            f"'{printable(first.id)}', {first.length} letters): proteins given as RNA? use "
            "--modality protein (protein=FILE)"
        )


def _nucleotide_note(sequence: str) -> str | None:
    """What there is to be noted of a protein that may be a nucleotide sequence."""
    if _NUCLEOTIDES.fullmatch(sequence):
        return _NUCLEOTIDES_ONLY
    if len(sequence) >= SURE and 10 * sum(map(sequence.count, "ACGTUN")) >= 9 * len(sequence):
        return _NUCLEOTIDES_NEARLY
    return None


def _like_residues(sequence: str) -> bool:
    """Whether RNA is mostly ambiguous letters; N and X, which stand for any, are none of them."""
    return len(sequence) >= SURE and 2 * sum(map(sequence.count, "ACGUNX")) < len(sequence)


def _raw_records(path: Path, problems: list[Problem], notes: Counter[str]) -> Iterator[_Raw]:
    """Split the file at its headers.  A record that holds a bad line is yielded with `bad` set."""
    start, header, bad = 0, "", False
    parts: list[str] = []
    for number, text, problem in read_lines(path):
        if text.lstrip("\ufeff").startswith(">"):
            if start:
                yield _Raw(start, header, "".join(parts), bad)
            start, header, bad, parts = number, text.lstrip("\ufeff")[1:], False, []
            if "\x01" in header:  # NCBI's nr: the titles of all entries that share the sequence
                header = header.split("\x01")[0]
                problem = control_problem(header) if problem and problem.startswith("control") else problem
                notes["several titles (NCBI's ^A), the first is read"] += 1
        elif problem is None and not text.strip():
            continue
        elif problem is None:
            problem = _line_problem(text, before_first=start == 0)
            parts.append(text.rstrip())
        if problem is not None and not bad:  # a bad record is one problem, not one a line
            problems.append(Problem(path, number, problem, _id_in(header)))
            bad = True
        if start and start != number and ">" in text:
            lost = _id_in(text.split(">", 1)[1])
            problems.append(Problem(path, number, "a record that begins inside a line; put its header on a line", lost))
    if start:
        yield _Raw(start, header, "".join(parts), bad)


def _id_in(header: str) -> str:
    """The id of a header, for messages."""
    return next(iter(header.split(maxsplit=1)), "")


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
        if modality == "protein" and (note := _nucleotide_note(sequence)):
            notes[note] += 1
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
        return f"{what} is an alignment gap; give the unaligned sequence: `{_UNALIGN}` (A3M's inserts stay in it)"
    if letter == "*":
        return f"{what} is a stop inside the sequence; cut or split the sequence there"
    if letter.isspace() or letter.isdigit():
        return f"{what} is no letter; remove spaces and numbering"
    if unicodedata.category(sequence[position]) == "Cf":
        return f"{what} is a character that nobody sees; remove it: `LC_ALL=C tr -cd '\\11\\12\\40-\\176' < FILE > NEW`"
    if modality == "rna" and len(set(sequence.upper()) & _NO_NUCLEOTIDES) > 1:
        return f"{what} is no nucleotide; is this a protein? (--modality protein)"
    if modality == "rna" and letter in "Ii":
        return f"{what} is inosine, which the encoders do not know; write N, or G, as which it is read"
    if modality == "rna" and letter.upper() in _NO_NUCLEOTIDES:
        return f"{what} is no nucleotide; write N where it is a modified one"
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
    if modality == "protein" and (note := _nucleotide_note(sequence)):
        notes[note] += 1
    if modality == "rna" and _like_residues(sequence):
        notes[_RESIDUES] += 1
