"""SMILES, CSV and SDF files → records of molecules, keyed by RDKit's canonical SMILES.

RDKit runs in a child process with bounds on time and memory: one 442-character SMILES has kept it busy for hours.
Row i of a molecule is atom i of its canonical SMILES, read from left to right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import Line, read_lines
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.molecule_table import (
    SMILES_COLUMNS,
    is_header,
    is_unknown_header,
    names_smiles,
    position,
    table_records,
)
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.raw_molecule import MAX_SMILES, RawMolecule
from crossllm.cache.records.rdkit_child import Answer, RdkitChild, canonical
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.sdf import COUNTS, sd_records
from crossllm.cache.records.smiles_lines import Order, id_first_lines, smiles_first_lines
from crossllm.cache.records.validation import validated_records

MAX_BLOCK = 1 << 20
"""Characters of a mol block; a longer one is refused unread."""
MAX_ATOMS = 500
"""Heavy atoms; a larger molecule is refused."""
_LOOK_AHEAD = 400
"""Lines in which an SD file shows what it is."""
# RDKit keeps a charge in 8 bits and an isotope in 16, and cuts off the rest without a word.
_OVERFLOW = re.compile(r"\[\d{4,}|[+-]\d{3,}(?=[:\]])")


def read_molecules(path: Path, on_bad: OnBad = "error", asked: ReadOptions = ReadOptions()) -> Records:
    """Read molecules: `id TAB SMILES` lines, a TSV or CSV with a header that names both columns, or an SDF file.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    problems: list[Problem] = []
    notes: Counter[str] = Counter()

    def found() -> Iterator[tuple[int, Record]]:
        order = Order(path, asked.smiles_first)
        with RdkitChild() as child:
            for raw in _raw_records(path, problems, notes, asked):
                if not raw.id:
                    problems.append(Problem(path, raw.line, "a molecule without an id; " + (raw.hint or "give it one")))
                    continue
                if position([raw.id], SMILES_COLUMNS) is not None:  # in the first line of a file it would be a header
                    what = "this is the name of a column, not of a molecule; rename it"
                    problems.append(Problem(path, raw.line, what, raw.id))
                    continue
                answer = _canonical(raw.structure, child.canonical)
                order.look(raw, answer, lambda text: _canonical(text, child.canonical))
                if answer.problem is not None:
                    problems.append(Problem(path, raw.line, answer.problem + _hint(raw, answer.problem), raw.id))
                else:
                    notes.update(answer.notes)
                    yield raw.line, record_of("molecule", raw.id, answer.smiles)
        order.refuse_swapped()

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


def smiles_of(smiles: str, ask: Callable[[str], Answer], notes: Counter[str]) -> tuple[str, str | None]:
    """The normal form of one SMILES as `ask` (a child's `canonical`) gives it, and what is wrong with it."""
    answer = _canonical(smiles, ask)
    notes.update(answer.notes)
    problem = answer.problem
    return answer.smiles, None if problem is None else problem + _hint(RawMolecule(0, "", smiles), problem)


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
    if structure.startswith("InChI="):
        return "an InChI, no SMILES; give SMILES, e.g. by `obabel -iinchi FILE -osmi`"
    if ">" in structure.replace("->", ""):  # a dative bond has one
        return "a reaction, no molecule; give each of its molecules a record"
    if " " in structure or "\t" in structure:
        return f"more than a SMILES: '{printable(' '.join(structure.split()[1:]), 30)}'; give the SMILES alone"
    return None


def _hint(raw: RawMolecule, problem: str) -> str:
    """What to do, where the problem does not say it itself."""
    if "; " in problem:
        return ""
    if "|" in raw.structure and "\n" not in raw.structure:
        return "; CXSMILES? give the part before '|' alone"
    if ";" in raw.structure and "\n" not in raw.structure:
        return "; two SMILES joined by ';'? give each a record of its own"
    if set("()=#[]") & set(raw.id) and "\n" not in raw.structure:
        return "; is the order SMILES, id? say so by --smiles-first (id TAB SMILES is expected)"
    return "; correct it"


def _raw_records(path: Path, problems: list[Problem], notes: Counter[str], asked: ReadOptions) -> Iterator[RawMolecule]:
    """The molecules of a file, its form told by its first lines."""
    lines = read_lines(path)
    head: list[Line] = []
    sdf = False
    for line in lines:
        head.append(line)
        text = line.text.rstrip()
        sdf = text in ("$$$$", "M  END") or bool(COUNTS.fullmatch(text))
        if sdf or len(head) == _LOOK_AHEAD:
            break
    if sdf:
        for name in ("smiles_first", "id_column", "smiles_column"):
            if getattr(asked, name):
                more = ", or --id-field" if name == "id_column" else ""
                raise InputError(f"--{name.replace('_', '-')}: {path} is an SD file; leave it out{more}")
        yield from sd_records(path, chain(head, lines), problems, notes, asked)
        return
    if asked.id_field is not None:
        raise InputError(f"--id-field {printable(asked.id_field)}: {path} is no SD file; leave it out, or --id-column")
    if asked.smiles_first and (asked.id_column or asked.smiles_column):
        raise InputError("--smiles-first: is of lines without a header, which have no columns to name; leave one out")
    first = next((line for line in head if line.text.strip()), None)
    named = first is not None and (names_smiles(first) or (is_header(first) and not asked.smiles_first))
    if named or asked.id_column or asked.smiles_column or (is_unknown_header(head) and not asked.smiles_first):
        yield from table_records(path, chain(head, lines), problems, notes, asked)
    elif asked.smiles_first:
        yield from smiles_first_lines(path, chain(head, lines), problems, notes)
    else:
        yield from id_first_lines(path, chain(head, lines), problems)
