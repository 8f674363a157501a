"""What a command says: results on standard output, everything else on standard error, each safe for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from crossllm.cache.errors import Problem, bad_lines, plain_line

SHOWN_LINES = 20
"""Bad records are reported one line each, this many, then the count of the rest."""


def note(text: str) -> None:
    """Say something that is no result, on one line of standard error, so that `--json` and pipes stay clean.

    Nobody listening there is no reason to stop the work.
    """
    with suppress(OSError, ValueError):
        click.echo(plain_line(text), err=True)


def say(*lines: str) -> None:
    """Print the lines of a result, safe for a terminal: a path or a name in them may hold any character."""
    click.echo("\n".join(map(plain_line, lines)))


def size_in_words(count: int) -> str:
    """Bytes in the largest binary unit that leaves a number of 1 or more: `870 B`, `1.4 GiB`."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.1f} {units[0]}" if units[0] != "B" else f"{count} B"


def say_notes(path: Path, notes: Counter[str], skipped: Sequence[Problem], unit: str) -> None:
    """Say what was normalised, merged or left out of a file, counted: nothing is dropped in silence."""
    for what, times in notes.items():
        note(f"note: {path}: {times} {unit if times != 1 else unit.removesuffix('s')}: {what}")
    for line in bad_lines(skipped)[:SHOWN_LINES]:
        note(f"skipped: {line}")
    if skipped:
        note(f"note: {path}: {len(skipped)} bad {unit} left out (--on-bad skip)")


def write_skipped(cache_dir: Path, command: str, skipped: Sequence[Problem]) -> None:
    """`skipped.<command>.tsv`: every record or row that `--on-bad skip` left out of the command's last run here."""
    if skipped:
        from crossllm.cache.files import fsio

        path = cache_dir / f"skipped.{command}.tsv"
        cells = ((str(p.path), str(p.line or ""), p.record, p.what) for p in skipped)
        lines = ["\t".join(map(plain_line, row)) + "\n" for row in (("file", "line", "record", "what"), *cells)]
        fsio.replace(path, "".join(lines).encode())
        note(f"note: all {len(skipped)} that were left out: {path}")


def show_errors(lines: Sequence[str]) -> None:
    """Print one line a bad record, the first `SHOWN_LINES`, then how many more there are."""
    for line in lines[:SHOWN_LINES]:
        note(f"error: {line}")
    if len(lines) > SHOWN_LINES:
        note(f"error: … and {len(lines) - SHOWN_LINES} more like these, {len(lines)} in all")
