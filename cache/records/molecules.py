"""SMILES, CSV and SDF files → records of molecules, keyed by RDKit's canonical SMILES.

RDKit runs in a child process with bounds on time and memory: one 442-character SMILES has kept it busy for hours.
Row i of a molecule is atom i of its canonical SMILES, read from left to right.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import Line, read_lines
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.rdkit_child import Answer, RdkitChild, canonical
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.validation import validated_records

MAX_SMILES = 2000
"""Characters of a longer SMILES are refused unread."""
MAX_BLOCK = 1 << 20
"""Characters of a mol block; a longer one is refused unread."""
MAX_ATOMS = 500
"""Heavy atoms; a larger molecule is refused."""
ID_COLUMNS = (
    "id", "molecule_id", "mol_id", "ligand_id", "compound_id", "name", "b_id", "cid", "ligand", "compound", "drug",
    "title", "chembl_id",
)  # fmt: skip
SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "smiles_string", "structure")
"""Columns of a table with a header, whatever their case, spaces and underscores; the first that is there is taken."""

_BLANKS = re.compile(r"[\s_]")
# RDKit keeps a charge in 8 bits and an isotope in 16, and cuts off the rest without a word.
_OVERFLOW = re.compile(r"\[\d{4,}|[+-]\d{3,}(?=[:\]])")


class _Raw(NamedTuple):
    line: int
    id: str
    structure: str
    """SMILES, or a mol block."""


def read_molecules(path: Path, on_bad: OnBad = "error") -> Records:
    """Read molecules: `id TAB SMILES` lines, a TSV or CSV with a header that names both columns, or an SDF file.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    problems: list[Problem] = []
    notes: Counter[str] = Counter()

    def found() -> Iterator[tuple[int, Record]]:
        with RdkitChild() as child:
            for raw in _raw_records(path, problems):
                answer = _canonical(raw.structure, child.canonical)
                if not raw.id:
                    problems.append(Problem(path, raw.line, "a molecule without an id; give it one"))
                elif answer.problem is not None:
                    problems.append(Problem(path, raw.line, answer.problem + _hint(raw, answer.problem), raw.id))
                else:
                    notes.update(answer.notes)
                    yield raw.line, record_of("molecule", raw.id, answer.smiles)

    return validated_records(path, "molecule", found(), notes, problems, on_bad)


def canonical_smiles(smiles: str) -> str:
    """The normal form of one molecule, as keys are made of it (in this process, without bounds on time).

    Raises:
        ValueError: RDKit cannot read it.
    """
    answer = _canonical(smiles, canonical)
    if answer.problem is not None:
        raise ValueError(answer.problem)
    return answer.smiles


def _canonical(structure: str, ask: Callable[[str], Answer]) -> Answer:
    """RDKit's answer on a structure that it can be asked about, held to the bounds on its atoms."""
    problem = _problem_before(structure)
    answer = Answer("", 0, problem, ()) if problem is not None else ask(structure)
    if answer.problem is None and not 1 <= answer.atoms <= MAX_ATOMS:
        return answer._replace(problem=f"{answer.atoms} heavy atoms, 1 to {MAX_ATOMS} are taken; leave it out")
    return answer


def _problem_before(structure: str) -> str | None:
    """What is wrong before RDKit is asked."""
    if "\n" in structure:
        too_long = f"a mol block of {len(structure)} characters, at most {MAX_BLOCK} are taken; leave it out"
        return too_long if len(structure) > MAX_BLOCK else None
    if not structure:
        return "an empty SMILES; remove the record or fill it in"
    if len(structure) > MAX_SMILES:
        return f"a SMILES of {len(structure)} characters, at most {MAX_SMILES} are taken; leave it out"
    if not structure.isascii():
        return f"a SMILES with '{printable(next(c for c in structure if not c.isascii()))}'; SMILES are ASCII"
    if found := _OVERFLOW.search(structure):
        return f"an isotope or a charge with too many digits: '{printable(found.group(), 20)}'; RDKit would misread it"
    if " " in structure or "\t" in structure:
        return f"more than a SMILES: '{printable(' '.join(structure.split()[1:]), 30)}'; give the SMILES alone"
    return None


def _hint(raw: _Raw, problem: str) -> str:
    """What to do, where the problem does not say it itself."""
    if "; " in problem:
        return ""
    if "|" in raw.structure and "\n" not in raw.structure:
        return "; CXSMILES? give the part before '|' alone"
    if ";" in raw.structure and "\n" not in raw.structure:
        return "; two SMILES joined by ';'? give each a record of its own"
    if set("()=#[]") & set(raw.id) and "\n" not in raw.structure:
        return "; is the order SMILES, id? id TAB SMILES is expected"
    return "; correct it"


def _raw_records(path: Path, problems: list[Problem]) -> Iterator[_Raw]:
    """The molecules of a file, its form told by its first lines."""
    lines = read_lines(path)
    head: list[Line] = []
    for line in lines:
        head.append(line)
        if len(head) == 4:
            break
    # A mol block's fourth line ends in its version; no SMILES does.
    if len(head) == 4 and head[3].text.rstrip().endswith(("V2000", "V3000")):
        yield from _sdf(path, _chain(head, lines), problems)
    else:
        yield from _table(path, _chain(head, lines), problems)


def _chain(head: list[Line], rest: Iterator[Line]) -> Iterator[Line]:
    yield from head
    yield from rest


def _table(path: Path, lines: Iterator[Line], problems: list[Problem]) -> Iterator[_Raw]:
    id_at, smiles_at, width, delimiter = 0, 1, 2, "\t"
    first, header = True, False
    for number, text, problem in lines:
        if not text.strip():
            continue
        if problem is None and first:
            first = False
            delimiter = "\t" if "\t" in text or "," not in text else ","
            names = _cells(text, delimiter)
            if delimiter == "," or _at(names, SMILES_COLUMNS) is not None:
                smiles_at = _column(path, number, names, SMILES_COLUMNS, "SMILES")
                id_at = _column(path, number, names, ID_COLUMNS, "id")
                width, header = len(names), True
                continue
        first = False
        cells = _cells(text, delimiter) if problem is None else []
        if problem is None and len(cells) != width:
            problem = _width_problem(len(cells), width, header)
        if problem is not None:
            problems.append(Problem(path, number, problem))
        else:
            yield _Raw(number, cells[id_at].strip(), cells[smiles_at].strip())


def _cells(text: str, delimiter: str) -> list[str]:
    """The cells of a line; quotes mean something in CSV alone."""
    if delimiter == "\t":
        return text.split("\t")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        return []


def _width_problem(found: int, expected: int, header: bool) -> str:
    what = f"{found} column{'s' * (found != 1)}, {expected} expected"
    if header:
        return f"{what} by the header; fill the line in, and quote cells that hold the delimiter"
    if found == 1:
        return f"{what}; separate by a TAB, id first: id TAB SMILES"
    return f"{what}; write id TAB SMILES, or name the columns in a header, e.g. id and smiles"


def _column(path: Path, line: int, names: list[str], wanted: tuple[str, ...], what: str) -> int:
    """Where the column is, or `InputError`: a first line of commas is a header, as SMILES have none."""
    found = _at(names, wanted)
    if found is None:
        header = printable(", ".join(cell.strip() for cell in names), 80)
        fix = f"one of {', '.join(wanted)} is expected"
        raise InputError(f"{path}:{line}: no {what} column in the header '{header}'; {fix}")
    return found


def _at(names: list[str], wanted: tuple[str, ...]) -> int | None:
    bare = [_BLANKS.sub("", name).lower() for name in names]
    return next((bare.index(own) for name in wanted if (own := _BLANKS.sub("", name)) in bare), None)


def _sdf(path: Path, lines: Iterator[Line], problems: list[Problem]) -> Iterator[_Raw]:
    """Mol blocks; the id is the title line."""
    start, block, bad = 1, list[str](), None
    for number, text, problem in lines:
        if text.startswith("$$$$"):
            yield from _block(path, start, block, bad, problems)
            start, block, bad = number + 1, [], None
            continue
        block.append(text)
        bad = bad or problem
    if any(text.strip() for text in block):
        yield from _block(path, start, block, bad, problems)


def _block(path: Path, line: int, block: list[str], bad: str | None, problems: list[Problem]) -> Iterator[_Raw]:
    title = block[0].strip() if block else ""
    end = next((n for n, text in enumerate(block) if text.startswith("M  END")), None)
    if bad is not None:
        problems.append(Problem(path, line, bad, title))
    elif end is None:
        problems.append(Problem(path, line, "a mol block without 'M  END'; is the file cut short?", title))
    else:
        yield _Raw(line, title, "\n".join(block[: end + 1]) + "\n")
