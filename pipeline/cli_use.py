"""`crossllm predict|screen|evaluate`: parsing and printing only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from crossllm.cache.cli_flags import (
    PathName,
    dry_run_option,
    json_option,
    on_bad_option,
    out_option,
    quiet_option,
    read_options,
)
from crossllm.cache.cli_remote import OR_ADDRESS, AnyCachePath, object_stores
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Command
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.pipeline.cli_use_flags import data_option, device_option, partner_options

if TYPE_CHECKING:
    from crossllm.pipeline.use.predictor import Where


_model_option = click.option(
    "--model",
    type=click.Choice(["folds", "final"]),
    default="folds",
    show_default=True,
    help="All folds' models together, or the one that train --final fitted on all pairs.",
)


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands that write a file of pairs have."""
    out = out_option("File to write: .tsv, .csv or .parquet.", required=True)
    over = click.option("--overwrite", is_flag=True, help="Replace what has the name of --out.")
    resume = click.option("--resume", is_flag=True, help="Go on with what a command that was cut off has written.")
    return partner_options(out(_model_option(over(resume(command)))))


@click.command(
    "predict",
    cls=Command,
    short_help="Predict new pairs of new sequences with a finished run.",
    examples=(
        "crossllm predict runs/first --pairs new.tsv --a rna=new.fasta --b protein=mine.fasta -o predictions.tsv",
        "crossllm predict runs/first --pairs new.tsv -o predictions.parquet --resume",
    ),
)
@_file_options
@click.option("--pairs", type=PathName(), required=True, help="TSV or CSV of pairs; all of its columns are kept.")
@click.option("--a-column", default="a_id", show_default=True)
@click.option("--b-column", default="b_id", show_default=True)
@click.option(
    "--chunk", type=click.IntRange(min=1), default=None, help="Pairs scored and written at once.  [default: 65536]"
)
@on_bad_option("Bad records and rows: stop and list them, or leave them out, listed and counted.")
@read_options
@quiet_option
@json_option
def predict(
    run: Path,
    a: str | None,
    b: str | None,
    out: Path,
    data: Path | None,
    model: Literal["folds", "final"],
    pairs: Path,
    a_column: str,
    b_column: str,
    overwrite: bool,
    resume: bool,
    chunk: int | None,
    on_bad: OnBad,
    reading: ReadOptions,
    quiet: bool,
    as_json: bool,
    **places: Any,
) -> None:
    """Predict new pairs with a finished run: scores, intervals, and how near they are to what it was trained on.

    Sequences that the run's cache lacks are embedded first, by the run's own recipes. An id that stands in neither file
    is one of the run's dataset.
    """
    _check_out(out)
    _prepare()
    from crossllm.pipeline.data.importing import parse_side
    from crossllm.pipeline.data.pairs import Columns
    from crossllm.pipeline.use.predicting import CHUNK, PredictOptions, predict_table

    options = PredictOptions(
        run,
        pairs,
        out,
        None if a is None else parse_side(a),
        None if b is None else parse_side(b),
        Columns(a_column, b_column, None),
        model,
        data,
        _where(**places),
        reading,
        on_bad,
        overwrite,
        resume,
        chunk or CHUNK,
        quiet,
    )
    summary = predict_table(options)
    if summary is not None and as_json:
        click.echo(json.dumps(summary._asdict()))
    elif summary is not None:
        say(summary.in_words())


@click.command(
    "screen",
    cls=Command,
    short_help="Screen all sequences of two files, keep the best pairs.",
    examples=(
        "crossllm screen runs/first --a rna=new.fasta --b protein=mine.fasta --top 100 -o best.tsv",
        "crossllm screen runs/first --a rna=new.fasta --b protein=mine.fasta -o best.tsv --dry-run",
    ),
)
@_file_options
@click.option("--top", type=click.IntRange(min=1), default=100, show_default=True, help="Pairs that are written.")
@click.option(
    "--per",
    type=click.Choice(["a", "b", "all"]),
    default="all",
    show_default=True,
    help="The best of each partner on side a, or b, or over all pairs.",
)
@click.option("--lowest", is_flag=True, help="Of affinities: the lowest are the best.")
@on_bad_option("Bad records: stop and list them, or leave them out, listed and counted.")
@read_options
@dry_run_option
@quiet_option
@json_option
def screen(
    run: Path,
    a: str | None,
    b: str | None,
    as_json: bool,
    cache_dir: Path | None,
    weights_a: Path | None,
    weights_b: Path | None,
    device: str,
    **flags: Any,
) -> None:
    """Screen all sequences of one file with all of another, and keep the best pairs.

    Each sequence is encoded once by each model, so that N x M pairs cost N + M encodings.
    """
    _check_out(flags["out"])
    _prepare()
    from crossllm.pipeline.data.importing import parse_side
    from crossllm.pipeline.use.screening import Plan, ScreenOptions
    from crossllm.pipeline.use.screening import screen as screened

    side_a, side_b = (None if side is None else parse_side(side) for side in (a, b))
    where = _where(cache_dir, weights_a, weights_b, device)
    done = screened(ScreenOptions(run, a=side_a, b=side_b, where=where, **flags))
    if done is None:  # `--resume` of a finished one, which was said
        return
    if as_json:
        click.echo(json.dumps(done._asdict()))
    else:
        say(*(done.in_lines() if isinstance(done, Plan) else [done.in_words()]))


@click.command(
    "evaluate",
    cls=Command,
    short_help="Evaluate a finished run on another dataset.",
    examples=("crossllm evaluate runs/first -c cache/other -o evaluations/other",),
)
@click.argument("run", type=PathName(), metavar="RUN")
@click.option(
    "--cache",
    "-c",
    "cache_dir",
    type=AnyCachePath(),
    required=True,
    help=f"Dataset to predict, embedded as the run's own: a folder{OR_ADDRESS}.",
)
@out_option("Folder for metrics.json and predictions.tsv.")
@data_option
@object_stores("cache_dir", "data")
@device_option
@_model_option
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the bootstrap.")
@on_bad_option("Pairs without an embedding: stop, or leave them out, counted.")
@quiet_option
@json_option
def evaluate(run: Path, cache_dir: Path, as_json: bool, device: str, **flags: Any) -> None:
    """Evaluate a finished run's models on another dataset, with what its training data share with it.

    The dataset has to hold rows of the run's recipes, to the letter.
    """
    _prepare()
    from crossllm.pipeline.cli_train import check_device
    from crossllm.pipeline.use.evaluating import EvaluateOptions
    from crossllm.pipeline.use.evaluating import evaluate as evaluated
    from crossllm.pipeline.use.evaluation_text import evaluation_text

    check_device(device)
    metrics = evaluated(EvaluateOptions(run, cache_dir, device=device, **flags))
    click.echo(json.dumps(metrics) if as_json else evaluation_text(metrics))
    if flags["out"] is not None and not as_json:
        say(f"→ {flags['out']}")


def _check_out(out: Path) -> None:
    """What can be said of the output before torch loads."""
    from crossllm.pipeline.use.output import kind_of

    kind_of(out)


def _prepare() -> None:
    """What `train` does before torch loads."""
    prepare_machine()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as in `crossllm train`
    from crossllm.cache.console.machine import keep_freed_memory

    keep_freed_memory()


def _where(cache_dir: Path | None, weights_a: Path | None, weights_b: Path | None, device: str) -> Where:
    from crossllm.pipeline.cli_train import check_device
    from crossllm.pipeline.use.predictor import Where

    check_device(device)
    return Where(cache_dir, (weights_a, weights_b), device)
