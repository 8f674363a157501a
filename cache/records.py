"""FASTA → `Record(key, id, sequence)`: reading, normalising, keying.

A record's key is the SHA-256 of its modality and normalised sequence, so equal sequences are embedded once whatever
their headers say.  A header is data: it lives in the `records/` table and never becomes a path.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from cache.errors import InputError, Problem, printable
from cache.textfile import read_lines

NORMALISER = 1
"""Version of `normalise`; it is part of the `records/` table and of every recipe."""
MODALITIES = ("rna", "protein")

OnBad = Literal["error", "skip"]

CERTAIN = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The alphabet proper, by modality."""
AMBIGUOUS = {
    "rna": {"R": "AG", "Y": "CU", "S": "CG", "W": "AU", "K": "GU", "M": "AC", "B": "CGU", "D": "AGU", "H": "ACU",
            "V": "ACG", "N": "ACGU", "X": "ACGU"},
    "protein": {"B": "DN", "Z": "EQ", "J": "IL", "U": "C", "O": "K", "X": CERTAIN["protein"]},
}  # fmt: skip
"""IUPAC codes that are kept as unknown, and the letters each may stand for (U and O: their closest residue)."""
_NOT_ALLOWED = {m: re.compile(f"[^{CERTAIN[m]}{''.join(AMBIGUOUS[m])}]") for m in MODALITIES}
_UNKNOWN = {m: re.compile(f"[{''.join(AMBIGUOUS[m])}]") for m in MODALITIES}
_NUCLEOTIDES = frozenset("ACGTUN")


class Record(NamedTuple):
    """One sequence as every later stage sees it."""

    key: bytes
    """SHA-256 of modality and normalised sequence, 32 bytes."""
    id: str
    """The first word of the FASTA header, case kept."""
    sequence: str
    """Normalised: RNA in upper case with U for T; protein in upper case without a trailing `*`."""


class Records(NamedTuple):
    """What a file held: its good records in file order, and everything that was changed or left out, counted."""

    modality: str
    records: list[Record]
    notes: Counter[str]
    """What was normalised or merged → how often."""
    skipped: list[Problem]
    """Bad records, left out under `--on-bad skip`."""


class _Raw(NamedTuple):
    line: int
    header: str
    sequence: str
    bad: bool


def key_of(modality: str, sequence: str) -> bytes:
    """The key of a normalised sequence, 32 bytes: SHA-256 of modality, a newline and the sequence, in ASCII."""
    return hashlib.sha256(f"{modality}\n{sequence}".encode("ascii")).digest()


def check_modality(modality: str) -> None:
    """Raise `InputError` for a modality this version cannot read."""
    if modality not in MODALITIES:
        raise InputError(f"modality '{printable(modality)}' is not known; one of: {', '.join(MODALITIES)}")


def read_fasta(path: Path, modality: str, on_bad: OnBad = "error") -> Records:
    """Read a FASTA file (plain or gzip) into records, all of its errors reported together.

    Equal ids with equal sequences are merged with a note; an id with two sequences is an error naming both lines.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    check_modality(modality)
    problems: list[Problem] = []
    notes: Counter[str] = Counter()
    seen: dict[str, tuple[int, bytes]] = {}
    ambiguous: set[str] = set()
    records: list[Record] = []
    for raw in _raw_records(path, problems):
        record = None if raw.bad else _to_record(path, modality, raw, notes, problems)
        if record is None:
            continue
        first = seen.setdefault(record.id, (raw.line, record.key))
        if first[0] == raw.line:
            records.append(record)
        elif first[1] == record.key:
            notes["repeated id with the same sequence, kept once"] += 1
        else:
            ambiguous.add(record.id)
            problems.append(
                Problem(
                    path,
                    raw.line,
                    f"this id stands on line {first[0]} with another sequence; rename one of the two",
                    record.id,
                )
            )
    if problems and on_bad == "error":
        raise InputError(map(str, problems))
    problems += [
        Problem(path, seen[i][0], "this id has another sequence further down; rename one", i) for i in ambiguous
    ]
    kept = [record for record in records if record.id not in ambiguous]
    if not kept:
        bad = f", {len(problems)} bad ones were left out" if problems else ""
        raise InputError(f"{path}: holds no records{bad}; a FASTA file of one or more sequences is expected")
    return Records(modality, kept, notes, sorted(problems, key=lambda problem: problem.line))


def normalise(modality: str, sequence: str) -> str:
    """The normalised sequence, before any check of its letters: upper case, T→U (RNA), trailing `*` cut (protein)."""
    upper = sequence.upper()
    return upper.replace("T", "U") if modality == "rna" else upper.removesuffix("*")


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
    sequence = normalise(modality, raw.sequence)
    if match := _NOT_ALLOWED[modality].search(sequence):
        what = _letter_problem(modality, raw.sequence, match.start())
        problems.append(Problem(path, raw.line, what, words[0]))
        return None
    if not sequence:
        problems.append(Problem(path, raw.line, "a sequence of '*' alone; remove the record", words[0]))
        return None
    _count(modality, raw.sequence, sequence, notes)
    return Record(key_of(modality, sequence), words[0], sequence)


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
    notes["lower case, read as upper case"] += upper != given
    notes["unknown or ambiguous letters, kept as unknown"] += _UNKNOWN[modality].search(sequence) is not None
    if modality == "rna":
        notes["T, read as U"] += "T" in upper
    else:
        notes["trailing '*', cut"] += upper.endswith("*")
        notes["only A, C, G, T/U or N: a nucleotide sequence given as a protein?"] += set(sequence) <= _NUCLEOTIDES
    for what in [what for what, times in notes.items() if not times]:
        del notes[what]
