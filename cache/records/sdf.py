"""SD files: mol blocks → molecules as they stand there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from crossllm.cache.errors import Problem, printable
from crossllm.cache.files.text_file import Line
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.raw_molecule import RawMolecule

COUNTS = re.compile(r"[ \d]*\d[ \d]*V[23]000 *", re.IGNORECASE)
"""The counts line of a mol block, the fourth."""
_FIELD = re.compile(r">.*<([^<>]+)>.*")


def sd_records(
    path: Path, lines: Iterator[Line], problems: list[Problem], notes: Counter[str], asked: ReadOptions
) -> Iterator[RawMolecule]:
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
) -> Iterator[RawMolecule]:
    end = _end(block)
    counts = next((n for n, text in enumerate(block[:4]) if COUNTS.fullmatch(text)), 3)
    title = block[0].strip() if counts == 3 else ""
    fields = _fields(block[end + 1 :]) if end is not None else {}
    id_ = title if asked.id_field is None else fields.get(asked.id_field, "")
    if bad is not None:
        problems.append(Problem(path, line, bad, id_))
    elif end is None:
        problems.append(Problem(path, line, "a mol block without 'M  END'; is the file cut short?", id_))
    elif (second := _second(block, end)) is not None:
        # Which data fields belong to which is not known: all of them are lost, each with its name.
        what = "of several mol blocks before one '$$$$'; put a line $$$$ after each 'M  END'"
        starts = [0, second]
        while (further := _second(block[starts[-1] :], _end(block[starts[-1] :]))) is not None:
            starts.append(starts[-1] + further)
        problems += [Problem(path, line + start, what, block[start].strip()) for start in starts]
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
        yield RawMolecule(line, id_, "\n".join(block[: end + 1]) + "\n", hint)


def _end(block: list[str]) -> int | None:
    """Where the first mol block ends."""
    return next((n for n, text in enumerate(block) if text.startswith("M  END")), None)


def _second(block: list[str], end: int | None) -> int | None:
    """Where a further mol block begins below 'M  END' and outside of the data fields, as `cat *.mol` makes them."""
    if end is None:
        return None
    in_field = False
    for n, text in enumerate(block[end + 1 :], end + 1):
        in_field = _FIELD.fullmatch(text) is not None or (in_field and bool(text.strip()))
        if not in_field and COUNTS.fullmatch(text):
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
