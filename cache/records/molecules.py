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
from typing import NamedTuple

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import Line, read_lines
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.rdkit_child import Answer, RdkitChild, canonical
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.table import SEP, TextTable, delimiter_of, open_table
from crossllm.cache.records.validation import validated_records

MAX_SMILES = 2000
"""Characters of a longer SMILES are refused unread."""
MAX_BLOCK = 1 << 20
"""Characters of a mol block; a longer one is refused unread."""
MAX_ATOMS = 500
"""Heavy atoms; a larger molecule is refused."""
ID_COLUMNS = ("molecule_id", "mol_id", "ligand_id", "compound_id", "chembl_id", "drug_id", "b_id", "cid", "id")
"""Usual names of columns of ids, whatever their case, spaces and underscores: see `_id_columns`."""
NAME_COLUMNS = ("ligand", "compound", "drug", "name", "title")
"""What is taken for want of an id; it need not be one a molecule."""
_KINDS = ("chembl", "pubchem", "compound", "cmpd", "molecule", "ligand", "drug", "drugbank", "mol")
"""Words that say the id is of a molecule."""
_OTHER_THING = re.compile(
    "targets?|assay|proteins?|gene|rna|mirna|document|doc|patents?|publication|article|pubmed|reference|reactants?|"
    "reaction|source|uniprot|pdb|chain|sequence|organism|taxon|tax|cell|activity"
)
"""Words of columns whose ids are of something else."""
_ONE_WORD = frozenset(f"{kind}id" for kind in (*_KINDS, "zinc")) | {"pubchemcid"}
"""Ids in one word, as in DRUGBANKID; VALID and LIPID are none."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "smiles_string", "structure")
_BLANKS = re.compile(r"[\s_]")
# RDKit keeps a charge in 8 bits and an isotope in 16, and cuts off the rest without a word.
_VERSION = re.compile(r"[ \d]*\d[ \d]*V[23]000 *", re.IGNORECASE)
"""The counts line of a mol block, the fourth."""
_FIELD = re.compile(r">.*<([^<>]+)>.*")
_LOOK_AHEAD = 400
"""Lines in which an SD file shows what it is."""
_ATOM = re.compile(r"[A-Za-z]")
_SMILES = re.compile(r"(Cl|Br|[BCNOSPFIbcnosp]|\[[^\[\]\s]+\]|[=#$:/\\().%+@*0-9-])+")
_OVERFLOW = re.compile(r"\[\d{4,}|[+-]\d{3,}(?=[:\]])")


class _Raw(NamedTuple):
    line: int
    id: str
    structure: str
    """SMILES, or a mol block."""
    hint: str = ""
    """What to do for want of an id."""
    headless: bool = False
    """A line without a header above it, so that the order of the two is a matter of convention."""


def read_molecules(path: Path, on_bad: OnBad = "error", asked: ReadOptions = ReadOptions()) -> Records:
    """Read molecules: `id TAB SMILES` lines, a TSV or CSV with a header that names both columns, or an SDF file.

    Raises:
        InputError: one line a bad record (`on_bad="error"`), or a file that as a whole cannot be used.
    """
    problems: list[Problem] = []
    notes: Counter[str] = Counter()

    def found() -> Iterator[tuple[int, Record]]:
        order = _Order(path)
        with RdkitChild() as child:
            for raw in _raw_records(path, problems, notes, asked):
                if not raw.id:
                    problems.append(Problem(path, raw.line, "a molecule without an id; " + (raw.hint or "give it one")))
                    continue
                if _at([raw.id], SMILES_COLUMNS) is not None:  # in the first line of a file it would be a header
                    what = "this is the name of a column, not of a molecule; rename it"
                    problems.append(Problem(path, raw.line, what, raw.id))
                    continue
                answer = _canonical(raw.structure, child.canonical)
                order.look(raw, answer, child.canonical)
                if answer.problem is not None:
                    problems.append(Problem(path, raw.line, answer.problem + _hint(raw, answer.problem), raw.id))
                else:
                    notes.update(answer.notes)
                    yield raw.line, record_of("molecule", raw.id, answer.smiles)
        order.refuse_swapped()

    return validated_records(path, "molecule", found(), notes, problems, on_bad)


class _Order:
    """Tells a file whose lines are `SMILES TAB id`: a line that happens to be SMILES twice would be stored swapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bad = 0
        self._swapped: list[_Raw] = []

    def look(self, raw: _Raw, answer: Answer, ask: Callable[[str], Answer]) -> None:
        """Note a line whose SMILES cannot be read while its id can."""
        if not raw.headless or answer.problem is None:
            return
        self._bad += 1
        self._swapped += [raw] if _canonical(raw.id, ask).problem is None else []

    def refuse_swapped(self) -> None:
        """Raise where most lines that cannot be read are swapped, whatever `--on-bad` says."""
        if self._swapped and 2 * len(self._swapped) >= self._bad:
            first, lines = self._swapped[0], len(self._swapped)
            raise InputError(
                f"{self._path}:{first.line}: '{printable(first.id, 20)}' is a SMILES and "
                f"'{printable(first.structure, 20)}' is none ({lines} such line{'s' * (lines != 1)}): is the order "
                "SMILES, id? id TAB SMILES is expected, or a header line that names both, e.g. smiles TAB id"
            )


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
    return answer.smiles, None if problem is None else problem + _hint(_Raw(0, "", smiles), problem)


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


def _raw_records(path: Path, problems: list[Problem], notes: Counter[str], asked: ReadOptions) -> Iterator[_Raw]:
    """The molecules of a file, its form told by its first lines."""
    lines = read_lines(path)
    head: list[Line] = []
    sdf = False
    for line in lines:
        head.append(line)
        text = line.text.rstrip()
        sdf = text in ("$$$$", "M  END") or bool(_VERSION.fullmatch(text))
        if sdf or len(head) == _LOOK_AHEAD:
            break
    if sdf:
        yield from _sdf(path, chain(head, lines), problems, notes, asked)
        return
    if asked.id_field is not None:
        raise InputError(f"--id-field {printable(asked.id_field)}: {path} is no SD file; leave it out, or --id-column")
    first = next((line for line in head if line.text.strip()), None)
    if first is not None and (_is_header(first) or _unknown_header(head) or asked.id_column or asked.smiles_column):
        yield from _table(path, chain(head, lines), problems, notes, asked)
    else:
        yield from _plain(path, chain(head, lines), problems)


def _is_header(first: Line) -> bool:
    """Whether the first line names columns: it has a SMILES column, or commas, which no SMILES has."""
    if first.problem is not None:
        return False
    delimiter = delimiter_of(first.text)
    names = [name.strip(' "') for name in first.text.split(delimiter or "\t")]
    return (
        delimiter == "," or SEP.fullmatch(first.text.strip(" ")) is not None or _at(names, SMILES_COLUMNS) is not None
    )


def _unknown_header(head: list[Line]) -> bool:
    """Whether the first line names columns of a TSV, none of which is a usual one, above a line with a SMILES."""
    rows = [[cell.strip() for cell in line.text.split("\t")] for line in head if line.text.strip()][:2]
    if len(rows) < 2 or len(rows[0]) < 2 or len(rows[0]) != len(rows[1]):
        return False
    at = [n for n, cell in enumerate(rows[1]) if _like_smiles(cell)]
    return (
        bool(at)
        and not any(_like_smiles(rows[0][n]) for n in at)
        and (len(rows[0]) > 2 or any("smiles" in rows[0][n].lower() for n in at))
    )


def _like_smiles(text: str) -> bool:
    """Whether it is made of what SMILES are made of, and of nothing else."""
    return len(text) <= MAX_SMILES and _SMILES.fullmatch(text) is not None and _ATOM.search(text) is not None


def _table(
    path: Path, lines: Iterator[Line], problems: list[Problem], notes: Counter[str], asked: ReadOptions
) -> Iterator[_Raw]:
    """A table with a header."""
    table = open_table(path, lines, notes)
    assert table is not None  # its first line was seen
    at = _at(table.header, SMILES_COLUMNS)
    of_smiles = [] if at is None else [name for name in table.header if _alike(name, table.header[at])]
    if at is None and asked.smiles_column is None:
        _refuse_without_header(path, table)
    smiles_at = _column(path, table, asked.smiles_column, of_smiles, "SMILES", SMILES_COLUMNS)
    of_ids = _id_columns(table.header)
    id_at = _column(path, table, asked.id_column, of_ids, "id", (*ID_COLUMNS, *NAME_COLUMNS))
    said = f"ids from '{printable(table.header[id_at])}', SMILES from '{printable(table.header[smiles_at])}'"
    hint = f"fill in '{printable(table.header[id_at])}', or name another column by --id-column"
    for line, cells, problem in table.rows:
        if problem is not None:
            problems.append(Problem(path, line, problem))
        else:
            notes[said] += 1
            yield _Raw(line, cells[id_at], cells[smiles_at], hint)


def _refuse_without_header(path: Path, table: TextTable) -> None:
    """Raise where the first line is a molecule already, which the name of a column could not be."""
    below = next((row.cells for row in table.rows if row.problem is None), table.header)
    both = zip(table.header, below, strict=True)
    at = next((n for n, (name, cell) in enumerate(both) if _like_smiles(name) and _like_smiles(cell)), None)
    if at is not None:
        names = [f"column{n + 1}" for n in range(len(table.header))]
        names[at] = "smiles"
        if len(names) > 1:
            names[0 if at else 1] = "id"
        mark = " TAB " if table.delimiter == "\t" else table.delimiter
        raise InputError(
            f"{path}:{table.line}: '{printable(table.header[at])}' is a SMILES: no header line? "
            f"write {mark.join(names)} above"
        )


def _column(
    path: Path, table: TextTable, asked: str | None, found: list[str], what: str, usual: tuple[str, ...]
) -> int:
    """Where the column is, or `InputError`.

    Args:
        path, table: for messages.
        asked: the column that the user named.
        found: names of those that may be it, with equal right.
        what: it holds.
        usual: names, for want of one.
    """
    header = printable(", ".join(table.header), 80)
    flag = f"--{what.lower()}-column"
    if asked is not None:
        if table.header.count(asked) != 1:
            times = "twice" if asked in table.header else "not"
            raise InputError(
                f"{path}:{table.line}: {flag} '{printable(asked)}' stands {times} in the header '{header}'"
            )
        return table.header.index(asked)
    if not found:
        named = [name for name in table.header if what.lower() in name.lower()] if what == "SMILES" else []
        example = f", e.g. {flag} '{printable(named[0])}'" if named else ""
        fix = f"one of {', '.join(usual)} is expected, or name it by {flag}{example}"
        raise InputError(f"{path}:{table.line}: no {what} column in the header '{header}'; {fix}")
    if len(set(found)) > 1:
        names = ", ".join(f"'{printable(name)}'" for name in found)
        raise InputError(
            f"{path}:{table.line}: {len(found)} columns may be the {what} column: {names}; name one by {flag}"
        )
    if len(found) > 1:
        name = printable(found[0])
        raise InputError(f"{path}:{table.line}: column '{name}' stands twice in the header; rename one")
    return table.header.index(found[0])


def _at(names: list[str], wanted: tuple[str, ...]) -> int | None:
    bare = [_BLANKS.sub("", name).lower() for name in names]
    return next((bare.index(own) for name in wanted if (own := _BLANKS.sub("", name)) in bare), None)


def _id_columns(names: list[str]) -> list[str]:
    """The columns that hold the ids with equal right: of molecules, then a bare id, then other ids, then names."""
    of_molecules, bare, others = list[str](), list[str](), list[str]()
    for name in names:
        words = [word.lower() for word in _WORDS.findall(name)]
        squeezed = _BLANKS.sub("", name).lower()
        if not words or any(map(_OTHER_THING.fullmatch, words)):
            continue
        if words == ["id"]:
            bare.append(name)
        elif (len(words) == 1 and squeezed in _ONE_WORD) or words[-1] == "cid" or squeezed == "bid":
            of_molecules.append(name)
        elif words[-1] == "id":
            (of_molecules if any(kind in squeezed for kind in _KINDS) else others).append(name)
    if found := of_molecules or bare or others:
        return found
    at = _at(names, NAME_COLUMNS)
    return [] if at is None else [name for name in names if _alike(name, names[at])]


def _alike(one: str, other: str) -> bool:
    return _BLANKS.sub("", one).lower() == _BLANKS.sub("", other).lower()


def _plain(path: Path, lines: Iterator[Line], problems: list[Problem]) -> Iterator[_Raw]:
    """Lines of `id TAB SMILES` without a header; quotes mean nothing here."""
    blanks, rows, first = 0, 0, 0
    smiles_first, most = 0, 0
    for number, text, problem in lines:
        if not text.strip():
            continue
        rows, first = rows + 1, first or number
        cells = [cell.strip() for cell in text.split("\t")]
        if len(cells) == 1 and len(words := text.split()) > 1:
            blanks, most = blanks + 1, max(most, len(words))
            smiles_first += _like_smiles(words[0]) and not _like_smiles(words[-1])
        if problem is None and len(cells) != 2:
            problem = _width_problem(cells)
        if problem is not None:
            problems.append(Problem(path, number, problem, cells[0] if len(cells) == 2 else ""))
        else:
            yield _Raw(number, cells[0], cells[1], headless=True)
    if rows > 1 and blanks == rows:
        replace = "replace the blanks by TABs" if most == 2 else "replace the first blank of each line by a TAB"
        fix = f"{replace}, id first: id TAB SMILES (where SMILES come first, put a header line smiles TAB id above)"
        if 2 * smiles_first > rows:
            fix = f"{replace}, and put a header line smiles TAB id above"
        raise InputError(f"{path}:{first}: 1 column, 2 expected, in every line; {fix}")


def _width_problem(cells: list[str]) -> str:
    what = f"{len(cells)} column{'s' * (len(cells) != 1)}, 2 expected"
    if len(cells) == 1:
        return f"{what}; separate by a TAB, id first: id TAB SMILES"
    return f"{what}; write id TAB SMILES, or name the columns in a header, e.g. id and smiles"


def _sdf(
    path: Path, lines: Iterator[Line], problems: list[Problem], notes: Counter[str], asked: ReadOptions
) -> Iterator[_Raw]:
    """Mol blocks; the id is the title line, or the data field that was named."""
    start, block, bad = 1, list[str](), None
    for number, text, problem in chain(lines, [Line(0, "$$$$", None)]):
        if text.rstrip() == "$$$$":
            if any(line.strip() for line in block):
                yield from _block(path, start, block, bad, problems, asked)
            elif number:
                notes["nothing between two $$$$, passed over"] += 1
            start, block, bad = number + 1, [], None
            continue
        block.append(text)
        bad = bad or problem


def _block(
    path: Path, line: int, block: list[str], bad: str | None, problems: list[Problem], asked: ReadOptions
) -> Iterator[_Raw]:
    end = next((n for n, text in enumerate(block) if text.startswith("M  END")), None)
    counts = next((n for n, text in enumerate(block[:4]) if _VERSION.fullmatch(text)), 3)
    title = block[0].strip() if counts == 3 else ""
    fields = _fields(block[end + 1 :]) if end is not None else {}
    id_ = title if asked.id_field is None else fields.get(asked.id_field, "")
    if bad is not None:
        problems.append(Problem(path, line, bad, id_))
    elif end is None:
        problems.append(Problem(path, line, "a mol block without 'M  END'; is the file cut short?", id_))
    elif (second := _second(block, end)) is not None:
        what = "a second mol block before '$$$$'; put a line $$$$ after each 'M  END'"
        problems.append(Problem(path, line + second, what, id_))
    elif counts < 3:
        what = (
            f"its counts line is line {counts + 1} of the mol block, not 4; write title, program and comment above it"
        )
        problems.append(Problem(path, line, what, id_))
    else:
        names = ", ".join(printable(name, 30) for name in list(fields)[:5])
        hint = f"write it into the title line, or name a data field by --id-field (there are {names})" if names else ""
        if asked.id_field is not None:
            hint = f"fill in its field {printable(asked.id_field, 30)}" + (f" (there are {names})" if names else "")
        yield _Raw(line, id_, "\n".join(block[: end + 1]) + "\n", hint)


def _second(block: list[str], end: int) -> int | None:
    """Where a further mol block begins below 'M  END' and outside of the data fields, as `cat *.mol` makes them."""
    in_field = False
    for n, text in enumerate(block[end + 1 :], end + 1):
        in_field = _FIELD.fullmatch(text) is not None or (in_field and bool(text.strip()))
        if not in_field and _VERSION.fullmatch(text):
            return max(end + 1, n - 3)
        if not in_field and text.startswith("M  END"):
            return end + 1
    return None


def _fields(lines: list[str]) -> dict[str, str]:
    """Data fields of an SD record → the first line of each."""
    found: dict[str, str] = {}
    for text, value in zip(lines, [*lines[1:], ""], strict=False):
        if match := _FIELD.fullmatch(text):
            found.setdefault(match[1], value.strip())
    return found
