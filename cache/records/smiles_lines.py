"""SMILES files without a header: `id TAB SMILES`, or SMILES, blanks and the name, as most .smi files are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import Line
from crossllm.cache.records.molecule_table import SMILES_COLUMNS, position
from crossllm.cache.records.raw_molecule import RawMolecule, like_smiles
from crossllm.cache.records.rdkit_child import Answer

_TO_TABS = r"""awk '{ id = $1; $1 = ""; sub(/^ +/, ""); print id "\t" $0 }' FILE > NEW"""


class Order:
    """Tells a file of the other order: a line that happens to be SMILES twice would be stored swapped."""

    def __init__(self, path: Path, smiles_first: bool) -> None:
        self._path, self._smiles_first = path, smiles_first
        self._bad = 0
        self._swapped: list[RawMolecule] = []

    def look(self, raw: RawMolecule, answer: Answer, ask: Callable[[str], Answer]) -> None:
        """Note a line whose SMILES cannot be read while its id can."""
        if not raw.headless or answer.problem is None:
            return
        self._bad += 1
        self._swapped += [raw] if ask(raw.id).problem is None else []

    def refuse_swapped(self) -> None:
        """Raise where most lines that cannot be read are swapped, whatever `--on-bad` says."""
        if self._swapped and 2 * len(self._swapped) >= self._bad:
            first, lines = self._swapped[0], len(self._swapped)
            order = (
                "id, SMILES? leave --smiles-first out"
                if self._smiles_first
                else "SMILES, id? say so by --smiles-first (id TAB SMILES is expected)"
            )
            raise InputError(
                f"{self._path}:{first.line}: '{printable(first.id, 20)}' is a SMILES and "
                f"'{printable(first.structure, 20)}' is none ({lines} such line{'s' * (lines != 1)}): is the order "
                f"{order}"
            )


def smiles_first_lines(
    path: Path, lines: Iterator[Line], problems: list[Problem], notes: Counter[str]
) -> Iterator[RawMolecule]:
    """Lines of SMILES, blanks or a TAB, and the id, which is all that follows; RDKit writes `SMILES Name` above."""
    rows = 0
    for number, text, problem in lines:
        if not (words := text.strip().split(maxsplit=1)):
            continue
        smiles, id_, rows = words[0], "".join(words[1:]), rows + 1
        if rows == 1 and position([smiles], SMILES_COLUMNS) is not None:
            notes["the header line, passed over"] += 1
            continue
        if problem is None and "\t" in id_:
            problem = "more than a SMILES and an id; name the columns in a header, e.g. smiles and id"
        if problem is None and id_.startswith("|"):
            problem = f"'{printable(id_, 20)}' behind the SMILES; CXSMILES? give the SMILES and the id alone"
        if problem is not None:
            problems.append(Problem(path, number, problem))
        else:
            yield RawMolecule(number, id_, smiles, "write it behind the SMILES", headless=True)


def id_first_lines(path: Path, lines: Iterator[Line], problems: list[Problem]) -> Iterator[RawMolecule]:
    """Lines of `id TAB SMILES` without a header; quotes mean nothing here."""
    blanks, rows, first, smiles_first = 0, 0, 0, 0
    for number, text, problem in lines:
        if not text.strip():
            continue
        rows, first = rows + 1, first or number
        cells = [cell.strip() for cell in text.split("\t")]
        if len(cells) == 1 and len(words := text.split(maxsplit=1)) > 1:
            blanks += 1
            smiles_first += like_smiles(words[0]) and not like_smiles(words[-1])
        if problem is None and len(cells) != 2:
            problem = _width_problem(cells)
        if problem is not None:
            problems.append(Problem(path, number, problem, cells[0] if len(cells) == 2 else ""))
        else:
            yield RawMolecule(number, cells[0], cells[1], headless=True)
    if rows > 1 and blanks == rows:
        fix = f"replace the first blanks of each line by a TAB, e.g. `{_TO_TABS}`: id TAB SMILES"
        if 2 * smiles_first > rows:
            fix = "SMILES first, as in most .smi? say so by --smiles-first"
        raise InputError(f"{path}:{first}: 1 column, 2 expected, in every line; {fix}")


def _width_problem(cells: list[str]) -> str:
    what = f"{len(cells)} column{'s' * (len(cells) != 1)}, 2 expected"
    if len(cells) == 1 and len(words := cells[0].split(maxsplit=1)) > 1 and like_smiles(words[0]):
        return f"{what}; SMILES first? say so by --smiles-first, or separate by a TAB, id first: id TAB SMILES"
    if len(cells) == 1:
        return f"{what}; separate by a TAB, id first: id TAB SMILES"
    return f"{what}; write id TAB SMILES, or name the columns in a header, e.g. id and smiles"
