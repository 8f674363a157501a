"""The error tree: every error a user can cause or meet, and the exit code it ends in.

    CrossLLMError            1  never raised itself; an error outside this tree is our bug and exits 1,
    │                           but for what the system says: no space or memory 4, a bad path 2
    ├── InputError           2  bad input or usage
    ├── CacheCorrupt         3  damage found
    ├── Conflict             5  what is asked for contradicts what the folder already holds
    ├── PartlyDone           6  finished in part; the failures are listed, in a file or by the command
    └── RowsRefused          2  rows that are not finite or overflow the storage dtype

An error carries one line for each bad record.  A line says what, where, got, expected and what to do;
`crossllm.cache.console.runner` alone turns the tree into standard error output and an exit code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

VERIFY = "`crossllm cache verify --data` lists what is damaged, `crossllm cache repair` takes it out"
"""What to do about damage in a segment."""


class CrossLLMError(Exception):
    """Base of the tree. `lines` holds one message a bad record, in file order."""

    exit_code = 1

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[CrossLLMError], tuple[tuple[str, ...]]]:
        """What is handed from process to process: its lines, which `args` has as one."""
        return type(self), (self.lines,)


class InputError(CrossLLMError):
    """Bad input or usage."""

    exit_code = 2


class CacheCorrupt(CrossLLMError):
    """Bytes of a cache are not what its commit record says."""

    exit_code = 3


class Conflict(CrossLLMError):
    """The folder already holds something that contradicts the request."""

    exit_code = 5


class PartlyDone(CrossLLMError):
    """The rest is done; what failed is listed in the file that the message names, or was printed."""

    exit_code = 6


class RowsRefused(CrossLLMError):
    """Rows that must never be stored: not finite, or too large for the storage dtype."""

    exit_code = 2


class Problem(NamedTuple):
    """One bad record: where it stands, what is wrong and what to do."""

    path: Path
    line: int
    """Counted from 1; 0 for a record that stands on no line, such as an array of an HDF5 file."""
    what: str
    """What is wrong, and after '; ' what to do."""
    record: str = ""

    def __str__(self) -> str:
        """`FILE:LINE: what (record ID); fix`, control characters escaped: an id is data, never a terminal command."""
        what, semicolon, fix = self.what.partition("; ")
        named = f" (record {printable(self.record)})" if self.record else ""
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {what}{named}{semicolon}{fix}"


SAME = 4
"""Bad records with one fault up to which each has a line of its own."""
_NAMED = 12
"""Of more, the lines that are named."""
_OWN = re.compile(r"'[^']*'|[0-9]+")
"""What differs in the words between two records with one fault."""


def bad_lines(problems: Iterable[Problem]) -> list[str]:
    """One line a bad record, in their order; where more than `SAME` of a file have one fault, one line for all of them.

    A whole column, a cut download or an alignment is one fault: twenty lines that say it would hide the others.
    """
    alike: dict[tuple[Path, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.path, _OWN.sub("", problem.what)), []).append(problem)
    found: list[str] = []
    for same in alike.values():
        if len(same) <= SAME:
            found += map(str, same)
            continue
        where = "lines" if same[0].line else "records"
        named = [str(p.line) if p.line else f"'{printable(p.record, 30)}'" for p in same[:_NAMED]]
        found.append(f"{same[0]} ({len(same)} such, {where} {', '.join(named)}{', …' * (len(same) > _NAMED)})")
    return found


def one_line(error: BaseException, limit: int = 120) -> str:
    """What a library's error says, or its class where it says nothing, on one line."""
    return printable(" ".join(str(error).split()) or type(error).__name__, limit)


def plain_line(text: str) -> str:
    """`text` with every character that could command a terminal, newlines too, written as its escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable(text: str, limit: int = 60) -> str:
    """`text` safe for one line of a terminal: control characters escaped, cut to `limit` characters."""
    escaped = plain_line(text[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"
