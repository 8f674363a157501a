"""Pairs tables: TSV or CSV in, checked pairs out; repeated and contradictory pairs are never kept in silence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Set
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, Problem, bad_lines, printable
from crossllm.cache.files.file_kind import wrong_table
from crossllm.cache.files.text_file import first_bytes, read_lines
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.record import id_problem
from crossllm.cache.records.similar_ids import SimilarIds
from crossllm.cache.records.table import TO_TABS, TextTable, open_table
from crossllm.cache.records.validation import SHOWN
from crossllm.pipeline.data.labels import LabelNames, Labels, Task, number

RESERVED = ("a_id", "b_id", "label")
"""Columns of every stored table."""

_HEADER_ABOVE = r"(printf 'a_id\tb_id\tlabel\n'; cat FILE) > NEW"
_NO_COMMENTS = "grep -v '^#' FILE > NEW"


class Columns(NamedTuple):
    """Names of the three columns that a pairs table has."""

    a: str = "a_id"
    b: str = "b_id"
    label: str | None = "label"
    """None: there is none, and every row is a positive."""

    @property
    def named(self) -> tuple[str, ...]:
        """Those that there are."""
        return (self.a, self.b) if self.label is None else (self.a, self.b, self.label)


class Pair(NamedTuple):
    """One row: two ids, a label (0 or 1, or an affinity), the line it stands on and its further columns."""

    a_id: str
    b_id: str
    label: float
    line: int
    extra: tuple[str, ...]


class Pairs(NamedTuple):
    """A checked table."""

    pairs: list[Pair]
    task: Task
    extra_columns: tuple[str, ...]
    notes: Counter[str]
    """What was merged or left out → how many rows."""
    skipped: list[Problem]
    """Bad rows, left out under `--on-bad skip`."""


class Side(SimilarIds):
    """The ids of one partner's records, and the column that names them."""

    def __init__(self, column: str, ids: Set[str]) -> None:
        super().__init__(ids)
        self.column = column

    def stranger(self, id_: str, other: Side | None) -> str:
        """What to do about an id that is not here; `other` is the other column's side."""
        if (unseen := self.unseen(id_)) is not None:
            return unseen
        if other is not None and id_ in other.ids:
            return f"it is a record of the other side: are {self.column} and {other.column} swapped?"
        return self.written_otherwise(id_) or f"ids there look like {self.examples()}; add it or remove the pair"


Named = Callable[[str], tuple[str, str | None]]
"""A cell → the id it stands for, and what is wrong with it; called once a distinct cell."""


class Where(NamedTuple):
    """Keep the rows whose column has this value."""

    column: str
    value: str


def read_pairs(
    path: Path,
    known_a: Set[str] | None = None,
    known_b: Set[str] | None = None,
    *,
    columns: Columns = Columns(),
    where: tuple[Where, ...] = (),
    task: Task | None = None,
    names: LabelNames = LabelNames(),
    named: tuple[Named, Named] | None = None,
    on_bad: OnBad = "error",
) -> Pairs:
    """Read a pairs table, all of its errors reported together with line numbers.

    Args:
        path: TSV or CSV (by its header; ';' and '|' too), plain or gzip.
        known_a, known_b: ids that have a sequence; a pair with another id is bad.  None: not checked.
        columns: names of the id and label columns.
        where: keep only rows that fit all of these.
        task: None: classification if every label is 0 or 1, regression if they are clearly numbers.
        names: labels of the two classes, and of what was not measured.
        named: where the two columns hold sequences instead of ids, what makes an id of one.
        on_bad: `error` raises, `skip` leaves bad rows out, listed.

    The same pair with the same label is kept once; with contradictory classes it is bad, both rows; repeated
    affinities are averaged.

    Raises:
        InputError: one line a bad row, or a table that as a whole cannot be used.
    """
    problems: list[Problem] = []
    notes: Counter[str] = Counter()
    if (kind := wrong_table(first_bytes(path))) is not None:
        raise InputError(f"{path}: {kind}")
    table = open_table(path, read_lines(path), notes)
    if table is None:
        raise InputError(f"{path}: is empty; a table with the header 'a_id b_id label' is expected, TABs between")
    header = table.header
    if len(set(header)) != len(header):
        raise InputError(f"{path}:{table.line}: a column name stands twice in the header; rename one")
    wanted = positions(path, table, columns, where)
    own, asked = wanted[: len(columns.named)], wanted[len(columns.named) :]
    extra = [i for i in range(len(header)) if i not in own]
    if columns.label is None and "label" in (header[i] for i in extra):
        raise InputError(f"{path}:{table.line}: has a column label; leave --all-positive out, or rename the column")
    if clash := [header[i] for i in extra if header[i] in RESERVED]:
        flag = dict(zip(RESERVED, ("--a-column", "--b-column", "--label-column"), strict=True))[clash[0]]
        raise InputError(
            f"{path}:{table.line}: column '{clash[0]}' stands beside the one that {flag} names, and stored tables have "
            f"one of that name; rename it in the header, or leave {flag} out to take it"
        )
    labels = Labels(path, task, names)
    side_a = None if known_a is None else Side(columns.a, known_a)
    side_b = None if known_b is None else Side(columns.b, known_b)
    met, strangers = set[Side | None](), dict[Side, tuple[int, str]]()
    pairs: list[Pair] = []
    for line, row, bad in table.rows:
        if bad is not None:
            problems.append(Problem(path, line, bad))
            continue
        if row == header:
            problems.append(Problem(path, line, "the header once more; were two files joined? remove the line"))
            continue
        if any(row[at] != w.value for at, w in zip(asked, where, strict=True)):
            notes["left out by --where"] += 1
            continue
        a_id, b_id, label = (*(row[i] for i in own), "1")[:3]
        if labels.is_missing(label):
            notes["label not measured (--missing), left out"] += 1
            continue
        value, what = labels.read(label, line)
        if named is not None:
            (a_id, bad_a), (b_id, bad_b) = named[0](a_id), named[1](b_id)
            for name, problem in ((columns.a, bad_a), (columns.b, bad_b)):
                what = f"{name}: {problem}" if what is None and problem is not None else what
        for name, id_ in ((columns.a, a_id), (columns.b, b_id)):
            if what is None and (problem := id_problem(id_)) is not None:
                what = f"{name}: {problem}"
        for side, other, id_ in ((side_a, side_b, a_id), (side_b, side_a, b_id)):
            if side is None or id_ in side.ids:
                met.add(side)
            elif what is None:
                why = side.stranger(id_, other)
                what = f"{side.column} '{printable(id_)}' has no record, or a bad one, in the input; {why}"
                strangers.setdefault(side, (line, what))
        if what is None:
            pairs.append(Pair(a_id, b_id, value, line, tuple(row[i] for i in extra)))
        else:
            problems.append(Problem(path, line, what))
    if len(problems) > 1 and (alone := [side for side in strangers if side not in met]):
        line, what = strangers[alone[0]]  # a whole column is one fault, and none of each row
        raise InputError(f"{path}: no id of column {alone[0].column} has a record; the first: line {line}: {what}")
    task, slip = labels.task(on_bad == "skip")
    if slip:
        problems += [Problem(path, p.line, labels.odd(p.label)) for p in pairs if p.label not in (0.0, 1.0)]
        pairs = [p for p in pairs if p.label in (0.0, 1.0)]
    kept = _merge(path, pairs, task, notes, problems, on_bad)
    if problems and on_bad == "error":
        raise InputError(bad_lines(sorted(problems, key=lambda p: p.line)))
    if not kept:
        raise InputError(_nothing_left(path, problems, notes, where))
    if task == "classification" and problems:
        labels.refuse_one_class({p.label for p in kept})
    return Pairs(kept, task, tuple(header[i] for i in extra), notes, sorted(problems, key=lambda p: p.line))


def _nothing_left(path: Path, problems: list[Problem], notes: Counter[str], where: tuple[Where, ...]) -> list[str]:
    """The first bad rows, and what else left nothing."""
    bad = f", {len(problems)} bad rows were left out" if problems else ""
    lines = bad_lines(sorted(problems, key=lambda p: p.line))
    bad += f", the first {SHOWN} faults are above" if len(lines) > SHOWN else ""
    gone = "".join(f", {count} row{'s' * (count != 1)}: {note}" for note, count in notes.items() if "left out" in note)
    check = "the file and --where" if where else "the file"
    return [*lines[:SHOWN], f"{path}: no pairs are left{bad}{gone}; check {check}"]


def positions(path: Path, table: TextTable, columns: Columns, where: tuple[Where, ...]) -> list[int]:
    """Where the id and label columns and those of `where` stand."""
    header, names = table.header, (*columns.named, *(w.column for w in where))
    missing = [name for name in names if name not in header]
    if missing:
        raise InputError(f"{path}:{table.line}: {_no_column(header, missing)}")
    return [header.index(name) for name in names]


def _no_column(header: list[str], missing: list[str]) -> str:
    found = printable(" ".join(header), 80)
    no = f"no column {', '.join(map(printable, missing))} in the header '{found}'"
    if len(header) == 1 and set(missing) & set(header[0].split()):
        return f"{no}: its columns are separated by blanks; separate all columns by TABs, e.g. `{TO_TABS}`"
    if any(not math.isnan(number(name)) for name in header):  # a label: no column is called 0 or 7.3
        return f"{no}; no header line? write one above, e.g. `{_HEADER_ABOVE}`"
    if header and header[0].lstrip("# ") in missing:
        return f"{no}; remove the '#' before it"
    if header and header[0].startswith("#"):
        return f"{no}; a comment above the header? leave such lines out: `{_NO_COMMENTS}`"
    alike = {name.casefold(): name for name in header}
    if close := [alike[name.casefold()] for name in missing if name.casefold() in alike]:
        return f"{no}; '{printable(close[0])}' differs in case: name it by --a-column, --b-column, --label-column"
    positives = "; where every row is a known interaction, say --all-positive" if missing == ["label"] else ""
    return f"{no}; write a header line or name the columns by --a-column, --b-column, --label-column{positives}"


def _merge(
    path: Path, pairs: list[Pair], task: Task, notes: Counter[str], problems: list[Problem], on_bad: OnBad
) -> list[Pair]:
    """One pair for each two ids, in file order: see `read_pairs`."""
    rows: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        rows.setdefault((pair.a_id, pair.b_id), []).append(pair)
    kept = []
    for (a_id, b_id), same in rows.items():
        labels = {pair.label for pair in same}
        if task == "classification" and len(labels) > 1:
            others = [pair for pair in same if pair.label != same[0].label]
            # An error is one line a pair; of what is left out every row is listed and counted.
            for bad in same if on_bad == "skip" else others[:1]:
                other = (others if bad.label == same[0].label else same)[0].line
                what = f"this pair has the other label on line {other}; keep one of the two, or --on-bad skip for none"
                problems.append(Problem(path, bad.line, what, f"{a_id} {b_id}"))
            continue
        if len(same) > 1 and task == "classification":
            notes["repeated pair with the same label, kept once"] += len(same) - 1
        elif len(same) > 1:
            notes["repeated affinity, averaged"] += len(same) - 1
        kept.append(same[0]._replace(label=math.fsum(p.label for p in same) / len(same)))
    return kept
