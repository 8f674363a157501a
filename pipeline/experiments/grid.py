"""The rows of an ablation: every combination of the values of a grid, or one changed value a row."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, one_line, printable
from crossllm.pipeline.training.config import TrainConfig, resolve

MOST_ROWS = 1000
_LONGEST_NAME = 100


class Row(NamedTuple):
    """One row of an ablation."""

    settings: dict[str, str]
    """Field → value as it was written, of every field of the grid."""
    changed: dict[str, str]
    """Those in which it is not the first row."""
    problem: str | None
    """Why this combination cannot be trained; None where it can."""

    @property
    def name(self) -> str:
        """Of the row's folder: its settings, and a digest where those are no name that every file system takes."""
        plain = ",".join(f"{field}={value}" for field, value in self.settings.items())
        name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", plain)
        if name == plain and len(name) <= _LONGEST_NAME:
            return name
        return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"

    @property
    def label(self) -> str:
        """What it changes of the first row; all settings of the first row itself."""
        return in_words(self.changed or self.settings)

    @property
    def sets(self) -> list[str]:
        """As `resolve` takes them."""
        return [f"{field}={value}" for field, value in self.settings.items()]


def in_words(settings: dict[str, str]) -> str:
    """`fusion=concat, noise=0`."""
    return ", ".join(f"{field}={value}" for field, value in settings.items())


def plan_rows(
    grids: Sequence[str],
    config: Path | None,
    sets: Sequence[str],
    *,
    one_at_a_time: bool,
    split_file: bool = False,
) -> tuple[TrainConfig, list[Row]]:
    """What all rows start from, and the rows; the first has the first value of every field.

    A combination that contradicts itself (`fusion=concat` with `order=ba`) is a row with a problem; what is wrong by
    itself is an error, and everything that is wrong is named at once.

    Args:
        grids: `FIELD=V1,V2`, each field once.
        config: as for `resolve`.
        sets: as for `resolve`; a field of the grid must not be among them.
        one_at_a_time: the first row, and then one field changed at a time; else the full product.
        split_file: a file has the split of all rows.

    Raises:
        InputError: an unknown field, a value of the wrong type or out of range, a field or a value that comes twice, or
            a first row that cannot be trained.
    """
    problems: list[str] = []
    if split_file:
        named = [text.partition("=")[0].strip().rpartition(".")[2] for text in (*grids, *sets)]
        if "split" in named:
            problems.append("--split-file: is the split of all rows; leave --grid split and --set split out")
        sets = [*sets, "split=file"]
    base = None
    try:
        base = resolve(config, sets)
    except InputError as error:
        problems += error.lines
    grid: dict[str, list[str]] = {}
    for text in grids:
        problems += _added(grid, text, sets)
    if problems or base is None:
        raise InputError(problems)
    if not grid:
        raise InputError("--grid: none is given; e.g. --grid fusion=cross_mamba,concat --grid noise=0.1,0")
    count = sum(len(v) - 1 for v in grid.values()) + 1 if one_at_a_time else _product(grid)
    if count > MOST_ROWS:
        raise InputError(f"--grid: {count} rows; at most {MOST_ROWS}, or give --one-at-a-time")
    first = {field: values[0] for field, values in grid.items()}
    rows = [
        Row(found, {f: v for f, v in found.items() if v != first[f]}, _problem(config, sets, found, split_file))
        for found in (_one_at_a_time(grid, first) if one_at_a_time else _combinations(grid))
    ]
    if rows[0].problem is not None:
        raise InputError(f"--grid: the first row, which the others are compared with ({rows[0].label}): "
                         f"{rows[0].problem}")  # fmt: skip
    return base, rows


def _added(grid: dict[str, list[str]], text: str, sets: Sequence[str]) -> Iterator[str]:
    """Put one `FIELD=V1,V2` into the grid, and say what is wrong with it."""
    field, equals, listed = text.partition("=")
    field, values = field.strip(), [value.strip() for value in listed.split(",")]
    shown = f"--grid {printable(text)}"
    if not equals or not field or not all(values):
        yield f"{shown}: is not FIELD=VALUE,VALUE"
        return
    if field in grid:
        yield f"{shown}: {printable(field)} is in another --grid already; write all of its values there"
        return
    if any(set_.partition("=")[0].strip().rpartition(".")[2] == field.rpartition(".")[2] for set_ in sets):
        yield f"{shown}: {printable(field)} is in --set too; leave it out there"
    seen: dict[TrainConfig, str] = {}
    for value in values:
        try:
            found = resolve(None, [f"{field}={value}"])
        except InputError as error:
            yield from (line.replace("--set ", "--grid ", 1) for line in error.lines)
            continue
        if found in seen:
            yield f"{shown}: '{printable(value)}' is '{printable(seen[found])}' again"
        seen[found] = value
    grid[field] = values


def _problem(config: Path | None, sets: Sequence[str], settings: dict[str, str], split_file: bool) -> str | None:
    try:
        found = resolve(config, [*sets, *(f"{field}={value}" for field, value in settings.items())])
    except InputError as error:
        return one_line(error, 300)
    return "split file: --split-file is missing" if found.split == "file" and not split_file else None


def _product(grid: dict[str, list[str]]) -> int:
    count = 1
    for values in grid.values():
        count *= len(values)
    return count


def _combinations(grid: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """The full product; the last field changes fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _one_at_a_time(grid: dict[str, list[str]], first: dict[str, str]) -> Iterator[dict[str, str]]:
    yield first
    for field, values in grid.items():
        for value in values[1:]:
            yield {**first, field: value}
