"""`crossllm compare`: parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path

import click

from crossllm.cache.cli_flags import PathName
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import note
from crossllm.cache.console.once import Command
from crossllm.cache.errors import InputError


@click.command(
    "compare",
    cls=Command,
    short_help="Compare finished runs on the test pairs that they share.",
    examples=(
        "crossllm compare runs/first runs/second",
        "crossllm compare runs/first runs/second --plot differences.svg",
    ),
)
@click.argument("runs", nargs=-1, required=True, type=PathName(), metavar="RUN RUN...")
@click.option("--plot", type=PathName(), default=None, help="Forest plot of the differences: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def compare(runs: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Compare finished runs with the first of them, on the test pairs that both predicted.

    For every metric the difference with a paired bootstrap over sequences; McNemar's test on the pairs of a
    classification, Wilcoxon's on the errors of a regression. Says where datasets, splits or pairs differ.
    """
    if len(runs) < 2:
        raise InputError(f"{runs[0]}: one run alone; name two or more, the reference first")
    prepare_machine()
    from crossllm.cache.files import fsio
    from crossllm.pipeline.experiments.compare import compare as compared
    from crossllm.pipeline.experiments.compare_table import comparison_plot, comparison_text
    from crossllm.pipeline.reporting.figures import KINDS

    kind = "" if plot is None else plot.suffix.lstrip(".").lower()
    if plot is not None and kind not in KINDS:
        raise InputError(f"--plot {plot}: ends in none of {', '.join('.' + known for known in KINDS)}")
    found = compared(runs)
    if plot is not None:
        fsio.make_dirs(plot.parent)
        fsio.replace(plot, comparison_plot(found, kind))
        note(f"note: plot: {plot}")
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found]))
        return
    click.echo(comparison_text(found))
