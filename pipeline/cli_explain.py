"""`crossllm explain`: parsing and printing only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli_flags import PathName, json_option, out_option, quiet_option, read_options
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import note, say
from crossllm.cache.console.once import Command
from crossllm.cache.errors import InputError
from crossllm.cache.files.paths import as_text
from crossllm.cache.records.options import ReadOptions
from crossllm.pipeline.cli_use_flags import partner_options

if TYPE_CHECKING:
    from crossllm.pipeline.explaining.explanation import Explanation

MOST_PAIRS = 100
"""Explained without --all: each has files of its own, and a run of its models some hundred times."""
LARGE_ERROR = 0.05
"""Share of the difference that a partner makes which its attributions may miss without a word."""


@click.command(
    "explain",
    cls=Command,
    short_help="Say which residues and atoms speak for a pair.",
    examples=(
        "crossllm explain runs/first --pairs chosen.tsv -o explained",
        "crossllm explain runs/first --pairs new.tsv --a rna=new.fasta --b protein=mine.fasta -o explained --steps 128",
    ),
)
@partner_options
@click.option("--pairs", type=PathName(), required=True, help="Table of pairs; other columns are passed over.")
@out_option("Folder to make; it must not exist.", required=True)
@click.option("--a-column", default="a_id", show_default=True)
@click.option("--b-column", default="b_id", show_default=True)
@click.option("--fold", "folds", multiple=True, metavar="NAME", help="Ask this fold's model alone; may be repeated.")
@click.option("--steps", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Of the integral.")
@click.option(
    "--width",
    type=click.IntRange(1, 1_000_000),
    default=5,
    show_default=True,
    help="Places an occluding window covers.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random deletions.")
@click.option("--all", "every", is_flag=True, help=f"Explain more than {MOST_PAIRS} pairs.")
@read_options
@quiet_option
@json_option
def explain(
    run: Path,
    pairs: Path,
    out: Path,
    a: str | None,
    b: str | None,
    a_column: str,
    b_column: str,
    cache_dir: Path | None,
    data: Path | None,
    weights_a: Path | None,
    weights_b: Path | None,
    folds: tuple[str, ...],
    reading: ReadOptions,
    every: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say which residues, nucleotides and atoms of two partners speak for a pair, by a finished run's models.

    Integrated gradients over the rows of both partners, their convergence error, occlusion and a deletion curve as
    checks; for each pair a table, a plot and, of molecules, a drawing.
    """
    prepare_machine()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # before torch loads OpenMP, as in `train`
    from crossllm.pipeline.cli_train import check_device
    from crossllm.pipeline.data.importing import parse_side
    from crossllm.pipeline.data.pairs import Columns
    from crossllm.pipeline.explaining.explain import explain_inputs
    from crossllm.pipeline.explaining.explanation import ExplainOptions
    from crossllm.pipeline.explaining.folder import refuse_taken, write_explanations
    from crossllm.pipeline.explaining.inputs import Inputs, Sources
    from crossllm.pipeline.use.predictor import Where
    from crossllm.pipeline.use.trained_run import load_run

    refuse_taken(out)
    check_device(options["device"])
    side_a, side_b = (None if text is None else parse_side(as_text(text)) for text in (a, b))
    where = Where(cache_dir, (weights_a, weights_b), options["device"])
    loaded = load_run(run)
    inputs = Inputs(loaded, pairs, Sources(side_a, side_b, data, where, reading, Columns(a_column, b_column, None)))
    if len(inputs.pairs) > MOST_PAIRS and not every:
        raise InputError(f"{pairs}: {len(inputs.pairs)} pairs, {MOST_PAIRS} are explained at once; add --all for more")
    chosen = ExplainOptions(folds=tuple(map(as_text, folds)), **options)
    found = explain_inputs(inputs, chosen, quiet=quiet)
    names = chosen.folds or tuple(fold.name for fold in loaded.folds)
    settings = {
        "run": str(run), "folds": list(names), "steps": chosen.steps, "width": max(chosen.width, loaded.window),
        "window": loaded.window, "seed": chosen.seed, "recipes": list(loaded.recipes),
    }  # fmt: skip
    unit = "logit" if loaded.task == "classification" else "affinity"
    body = write_explanations(out, _shown(found, len(inputs.pairs), quiet), settings, unit)
    if as_json:
        click.echo(json.dumps(body))
        return
    say(*_lines(body["pairs"]), f"→ {out}")
    _warn(body["pairs"])


def _shown(found: Iterable[Explanation], total: int, quiet: bool) -> Iterator[Explanation]:
    """The explanations, with a bar or lines while they are made."""
    from crossllm.cache.console.progress import pair_progress

    with pair_progress(total, "explaining", quiet) as done:
        for one in found:
            yield one
            done(1)


def _lines(pairs: list[dict[str, Any]]) -> Iterator[str]:
    """The table of all pairs, a line each; columns are as `summary.tsv` has them."""
    from crossllm.cache.errors import printable

    columns = {
        "value": "output", "without_a": "without A", "without_b": "without B", "error": "error",
        "rank_correlation": "rank corr.", "without_top_tenth": "- top 10%", "without_random_tenth": "- random",
    }  # fmt: skip
    yield " ".join([f"{'pair':24}", *(f"{title:>10}" for title in columns.values())])
    for pair in pairs:
        numbers = {**pair, "error": max(pair["error_a"], pair["error_b"], key=abs)}
        cells = [_cell(name, numbers[name]) for name in columns]
        yield " ".join([f"{printable(pair['a_id'] + ' ' + pair['b_id'], 24):24}", *(f"{cell:>10}" for cell in cells)])


def _cell(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if name == "error" else f"{value:.3f}"


def _warn(pairs: list[dict[str, Any]]) -> None:
    """Say for how many pairs the steps were too few."""
    missed = sum((pair["relative_error"] or 0) > LARGE_ERROR for pair in pairs)
    if missed:
        note(
            f"note: {missed} of {len(pairs)} pairs: a partner's attributions miss their sum by more than "
            f"{LARGE_ERROR:.0%}; take more --steps"
        )
