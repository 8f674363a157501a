"""`crossllm report`: parsing and printing only."""

from __future__ import annotations

from pathlib import Path

import click

from crossllm.cache.cli_flags import PathName, out_option
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import say, size_in_words
from crossllm.cache.console.once import Command
from crossllm.cache.files.paths import as_text


@click.command(
    "report",
    cls=Command,
    short_help="Make one page of HTML of finished runs, to send around.",
    examples=(
        "crossllm report cache/rpi488/runs/rpi488 -o report.html",
        "crossllm report runs/first ablations/fusion --title 'Fusions on RPI488' -o report.html",
    ),
)
@click.argument("runs", nargs=-1, required=True, type=PathName(), metavar="RUN...")
@out_option("The page, e.g. report.html.", required=True)
@click.option("--title", default=None, help="Heading of the page.  [default: the names of the datasets]")
def report(runs: tuple[Path, ...], out: Path, title: str | None) -> None:
    """Make one page of HTML of finished runs, to send around.

    A run may be of one seed or of several, or an ablation. The page says in words what was predicted, how well, and
    what the baselines reach; it has plots, the leak report, provenance and a model card. It holds everything that it
    shows, and needs no network.
    """
    prepare_machine()
    from crossllm.pipeline.page.writing import write_report

    done = write_report(runs, out, None if title is None else as_text(title))
    titles = [f"ablation {section.title}" for section in done.page.ablations]
    titles += [section.title for section in done.page.runs]
    say(*titles, f"→ {done.path}, {size_in_words(done.size)}")
