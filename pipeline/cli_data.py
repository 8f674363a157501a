"""`crossllm data import|split|leaks|negatives|demo`: parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli_flags import CachePath, PathName, on_bad_option, out_option, read_options
from crossllm.cache.cli_remote import OR_ADDRESS, AnyCachePath, any_cache_option, object_stores
from crossllm.cache.console.messages import note, say, say_notes
from crossllm.cache.console.once import Group
from crossllm.cache.errors import InputError, printable
from crossllm.cache.files.paths import as_text
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.pipeline.cli_split_flags import SEED, SPLIT_SETTINGS, setting_flags, split_file_option, take_settings

if TYPE_CHECKING:
    from crossllm.pipeline.data.dataset import Dataset
    from crossllm.pipeline.data.labels import Task
    from crossllm.pipeline.negatives.options import Match
    from crossllm.pipeline.splits.choosing import Split
    from crossllm.pipeline.training.config import TrainConfig

_new_cache_option = click.option(
    "--cache", "-c", "cache_dir", type=AnyCachePath(), required=True, help=f"Cache to write: a folder{OR_ADDRESS}."
)


@click.group(
    "data",
    cls=Group,
    examples=(
        "crossllm data import --a rna=rna.fasta --b protein=protein.fasta --pairs pairs.tsv -c cache/mine",
        "crossllm data leaks -c cache/mine --split cold-b",
    ),
)
def data() -> None:
    """Make datasets, split them, and look for leaks."""


@data.command(
    "import",
    short_help="Make a dataset of sequence files and a table of pairs.",
    examples=(
        "crossllm data import --a rna=rna.fasta --b protein=protein.fasta --pairs pairs.tsv -c cache/mine",
        "crossllm data import --a rna=rna_seq --b molecule=smiles --table all.csv --label-column pkd -c cache/mine",
        "crossllm data import --a rna=r.fa --b protein=p.fa --pairs p.tsv --positive yes --negative no -c cache/mine",
    ),
)
@click.option("--a", "a", required=True, metavar="MODALITY=FILE", help="First partner's file, e.g. rna=rna.fasta.")
@click.option("--b", "b", required=True, metavar="MODALITY=FILE", help="Second partner's, e.g. protein=protein.fasta.")
@click.option("--pairs", type=PathName(), default=None, help="TSV or CSV (also by ';' or '|') with a header line.")
@click.option(
    "--table",
    type=PathName(),
    default=None,
    help="One table of sequences and labels in place of all files: --a rna=COLUMN --b molecule=COLUMN name its "
    "columns; ids are made of the sequences.",
)
@_new_cache_option
@object_stores("cache_dir")
@click.option("--a-column", default="a_id", show_default=True)
@click.option("--b-column", default="b_id", show_default=True)
@click.option("--label-column", default="label", show_default=True)
@click.option(
    "--all-positive",
    is_flag=True,
    help="Every row is a known interaction, and no column is one of labels: see `crossllm data negatives`.",
)
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Keep only such rows; may be given several times.")
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    default=None,
    help="Default: classification if every label is 0 or 1; few whole numbers that are not are asked about.",
)
@click.option(
    "--positive",
    multiple=True,
    metavar="LABEL",
    help="A label that means 1, a number or a word; with --negative. May be given several times.",
)
@click.option("--negative", multiple=True, metavar="LABEL", help="A label that means 0, with --positive.")
@click.option(
    "--missing", multiple=True, metavar="LABEL", help="A label that means 'not measured': such rows are left out."
)
@click.option(
    "--update",
    is_flag=True,
    help="The folder's dataset has grown: write it anew. Embeddings and runs stay; no sequence may change.",
)
@on_bad_option("Bad records and rows: stop and list them, or leave them out, listed and counted.")
@read_options
def import_command(
    a: str,
    b: str,
    pairs: Path | None,
    table: Path | None,
    cache_dir: Path,
    a_column: str,
    b_column: str,
    label_column: str,
    all_positive: bool,
    where: tuple[str, ...],
    task: Task | None,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    missing: tuple[str, ...],
    update: bool,
    on_bad: OnBad,
    reading: ReadOptions,
) -> None:
    """Check FASTA files and a pairs table and write them as a dataset."""
    from crossllm.pipeline.data.importing import ImportOptions, import_dataset, parse_side
    from crossllm.pipeline.data.labels import LabelNames
    from crossllm.pipeline.data.pairs import Columns, Where

    if (pairs is None) == (table is None):
        both = "leave one of the two out" if pairs is not None else "give one of the two"
        raise InputError(f"--pairs: is the table of ids, --table one that holds the sequences itself; {both}")
    if all_positive:
        _check_all_positive(task, (positive, negative, missing), label_column)
    wheres = []
    for text in where:
        column, equals, value = as_text(text).partition("=")
        if not equals:
            raise InputError(f"--where '{printable(text)}' is not COLUMN=VALUE")
        wheres.append(Where(column.strip(), value.strip()))
    options = ImportOptions(
        parse_side(a),
        parse_side(b),
        pairs,
        cache_dir,
        Columns(a_column, b_column, None if all_positive else label_column),
        tuple(wheres),
        task,
        LabelNames(positive, negative, missing),
        on_bad,
        table,
        reading,
        update,
    )
    say(import_dataset(options))


def _check_all_positive(task: Task | None, labels: tuple[tuple[str, ...], ...], label_column: str) -> None:
    """Raise `InputError` where --all-positive stands beside a flag that says what labels mean."""
    flags = ("--positive", "--negative", "--missing")
    given = [flag for flag, values in zip(flags, labels, strict=True) if values]
    given += ["--task regression"] * (task == "regression") + ["--label-column"] * (label_column != "label")
    if given:
        raise InputError(f"--all-positive: says that there are no labels, {given[0]} that there are; leave one out")


@data.command(
    "split",
    short_help="Cut the pairs into folds, written as a file.",
    examples=(
        "crossllm data split -c cache/mine --split cold-both --folds 5 -o splits.tsv",
        "crossllm data split -c cache/mine --split cluster --identity-b 0.4 -o splits.tsv",
    ),
)
@any_cache_option
@object_stores("cache_dir")
@setting_flags(SPLIT_SETTINGS | SEED)
@split_file_option
@out_option("File to write, e.g. splits.tsv.", required=True)
@on_bad_option("Bad pairs: stop, or leave them out, counted.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def split_command(cache_dir: Path, out: Path, on_bad: OnBad, quiet: bool, **flags: Any) -> None:
    """Cut a dataset's pairs into folds and write them as a file for train --split-file."""
    from crossllm.pipeline.splits.parts import cut_parts
    from crossllm.pipeline.splits.split_file import write_split

    _, config, (dataset, folds) = _split(cache_dir, on_bad, quiet, flags)
    digest, tested = write_split(out, dataset, folds), int((folds.of_pair >= 0).sum())
    for number in range(len(folds.names)):
        try:
            cut_parts(dataset, folds, number, config.validation, config.seed)
        except InputError as error:
            note(f"note: train would refuse this split: {error}")
            break
    count = "1 fold" if len(folds.names) == 1 else f"{len(folds.names)} folds"
    say(f"{count}, {tested} of {len(dataset.labels)} pairs tested, split {digest[:16]} → {out}")


@data.command(
    "leaks",
    short_help="Say what a split lets through from training to test.",
    examples=(
        "crossllm data leaks -c cache/mine",
        "crossllm data leaks -c cache/mine --split-file splits.tsv --json",
    ),
)
@any_cache_option
@object_stores("cache_dir")
@setting_flags(SPLIT_SETTINGS | SEED)
@split_file_option
@on_bad_option("Bad pairs: stop, or leave them out, counted.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print leaks.json instead of lines.")
def leaks_command(cache_dir: Path, on_bad: OnBad, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Say what a split lets through: partners seen, nearest training sequences, what counts alone tell."""
    from crossllm.pipeline.evaluation.leak_lines import leak_lines
    from crossllm.pipeline.reporting.leaks import find_leaks
    from crossllm.pipeline.splits.choosing import similarities_of
    from crossllm.pipeline.splits.parts import cut_parts

    whole, config, (dataset, folds) = _split(cache_dir, on_bad, quiet, flags)
    parts = [cut_parts(dataset, folds, n, config.validation, config.seed) for n in range(len(folds.names))]
    similarities = similarities_of(whole, config.split_options(), cache_dir, quiet=quiet)
    leaks = find_leaks(dataset, folds.names, parts, similarities)
    click.echo(json.dumps(leaks) if as_json else "\n".join(leak_lines(leaks)))


def _split(cache_dir: Path, on_bad: OnBad, quiet: bool, flags: dict[str, Any]) -> tuple[Dataset, TrainConfig, Split]:
    """All pairs of the dataset, the flags as settings, and the split that they ask for."""
    from crossllm.pipeline.data.dataset import load_dataset
    from crossllm.pipeline.splits.choosing import choose_folds
    from crossllm.pipeline.training.config import resolve

    settings = take_settings(flags, SPLIT_SETTINGS | SEED)
    config = resolve(flags={name: as_text(text) for name, text in settings.items() if text is not None})
    dataset, found = load_dataset(cache_dir, on_bad)
    say_notes(cache_dir / "pairs.tsv", found.notes, found.skipped, "rows")
    split = choose_folds(dataset, config.split_options(), cache_dir, flags["split_file"], quiet=quiet)
    return dataset, config, split


@data.command(
    "demo",
    short_help="Generate an RNA–protein set with a planted interaction.",
    examples=("crossllm data demo -c cache/demo",),
)
@_new_cache_option
@object_stores("cache_dir")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--entities", type=click.IntRange(6, 10**6), default=600, show_default=True, help="RNAs, and proteins.")
@click.option("--pairs", type=click.IntRange(1, 10**8), default=3000, show_default=True)
def demo_command(cache_dir: Path, seed: int, entities: int, pairs: int) -> None:
    """Generate an RNA–protein set with a planted interaction; another seed gives other sequences of the same motifs."""
    from crossllm.pipeline.data.demo import write_demo

    try:
        say(write_demo(cache_dir, seed, entities, pairs))
    except ValueError as error:
        raise InputError(f"--pairs: {error}; give more --entities") from None


@data.command(
    "negatives",
    short_help="Draw negatives for the positives of a dataset.",
    examples=(
        "crossllm data negatives -c cache/known -o cache/mine --per-positive 2",
        "crossllm data negatives -c cache/known -o cache/mine --hard",
    ),
)
@click.option("--cache", "-c", "cache_dir", type=CachePath(), required=True, help="Dataset whose positives are taken.")
@click.option("--out", "-o", type=CachePath(), required=True, help="Folder of the new dataset.")
@click.option("--per-positive", type=int, default=1, show_default=True, help="Negatives for one positive.")
@click.option(
    "--match",
    type=click.Choice(["degree", "none"]),
    default="degree",
    show_default=True,
    help="degree: each id as often in negatives as in positives, in each part; none: uniformly random pairs.",
)
@click.option("--hard", is_flag=True, help="Draw relatives of positive partners, where there are any.")
@click.option(
    "--near",
    type=float,
    default=0.9,
    show_default=True,
    help="Leave out pairs whose two sequences both have this identity to those of a known positive.",
)
@click.option("--folds", type=int, default=None, help="Random parts of the positives.  [default: 5]")
@click.option("--fold-column", default=None, help="Column that names the parts, in place of --folds.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
def negatives_command(
    cache_dir: Path,
    out: Path,
    per_positive: int,
    match: Match,
    hard: bool,
    near: float,
    folds: int | None,
    fold_column: str | None,
    seed: int,
    quiet: bool,
) -> None:
    """Draw negatives for the positives of a dataset, and write both as a new one."""
    from crossllm.pipeline.negatives.making import make_negatives
    from crossllm.pipeline.negatives.options import NegativeOptions

    if folds is not None and fold_column is not None:
        raise InputError("--folds: makes the parts, --fold-column names them; leave one of the two out")
    options = NegativeOptions(
        cache_dir, out, per_positive, match, hard, near, 5 if folds is None else folds, fold_column, seed
    )
    say(*make_negatives(options, quiet=quiet))
