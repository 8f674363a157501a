"""Tables of molecules: which column holds the ids and which the SMILES."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import Line
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.raw_molecule import RawMolecule, like_smiles
from crossllm.cache.records.table import SEP, TextTable, delimiter_of, open_table

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


def is_header(first: Line) -> bool:
    """Whether the first line names columns: it has a SMILES column, or commas, which no SMILES has."""
    if first.problem is not None:
        return False
    excel = SEP.fullmatch(first.text.strip(" ")) is not None
    return excel or delimiter_of(first.text) == "," or names_smiles(first)


def names_smiles(first: Line) -> bool:
    """Whether the first line is of several names, one of which is that of a SMILES column."""
    if first.problem is not None or (delimiter := delimiter_of(first.text)) is None:
        return False
    return position([name.strip(' "') for name in first.text.split(delimiter)], SMILES_COLUMNS) is not None


def is_unknown_header(head: list[Line]) -> bool:
    """Whether the first line names columns of a TSV, none of which is a usual one, above a line with a SMILES."""
    rows = [[cell.strip() for cell in line.text.split("\t")] for line in head if line.text.strip()][:2]
    if len(rows) < 2 or len(rows[0]) < 2 or len(rows[0]) != len(rows[1]):
        return False
    at = [n for n, cell in enumerate(rows[1]) if like_smiles(cell)]
    return (
        bool(at)
        and not any(like_smiles(rows[0][n]) for n in at)
        and (len(rows[0]) > 2 or any("smiles" in rows[0][n].lower() for n in at))
    )


def table_records(
    path: Path, lines: Iterator[Line], problems: list[Problem], notes: Counter[str], asked: ReadOptions
) -> Iterator[RawMolecule]:
    """A table with a header."""
    table = open_table(path, lines, notes)
    assert table is not None  # its first line was seen
    at = position(table.header, SMILES_COLUMNS)
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
            yield RawMolecule(line, cells[id_at], cells[smiles_at], hint)


def _refuse_without_header(path: Path, table: TextTable) -> None:
    """Raise where the first line is a molecule already, which the name of a column could not be."""
    words = table.header[0].split() if table.header else []
    if len(words) > 1 and like_smiles(words[0]):  # the comma of a name, as in 1,2-dichloroethane
        raise InputError(
            f"{path}:{table.line}: '{printable(words[0])}' is a SMILES, with a blank behind it: "
            "SMILES first, as in most .smi? say so by --smiles-first"
        )
    below = next((row.cells for row in table.rows if row.problem is None), table.header)
    both = zip(table.header, below, strict=True)
    at = next((n for n, (name, cell) in enumerate(both) if like_smiles(name) and like_smiles(cell)), None)
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


def position(names: list[str], wanted: tuple[str, ...]) -> int | None:
    """Where the first of the wanted names stands, whatever its case, blanks and underscores; None: nowhere."""
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
    at = position(names, NAME_COLUMNS)
    return [] if at is None else [name for name in names if _alike(name, names[at])]


def _alike(one: str, other: str) -> bool:
    return _BLANKS.sub("", one).lower() == _BLANKS.sub("", other).lower()
