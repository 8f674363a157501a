"""`crossllm data import|demo`: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossllm.cache.cli_flags import CachePath, PathName, on_bad_option, read_options
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Group
from crossllm.cache.errors import InputError, printable
from crossllm.cache.files.paths import as_text
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions

if TYPE_CHECKING:
    from crossllm.pipeline.data.labels import Task

_cache_option = click.option(
    "--cache", "cache_dir", type=CachePath(), required=True, help="Folder of the cache to write."
)


@click.group("data", cls=Group)
def data() -> None:
    """Make datasets: a cache folder with records and pairs."""


@data.command("import")
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
@_cache_option
@click.option("--a-column", default="a_id", show_default=True)
@click.option("--b-column", default="b_id", show_default=True)
@click.option("--label-column", default="label", show_default=True)
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
        Columns(a_column, b_column, label_column),
        tuple(wheres),
        task,
        LabelNames(positive, negative, missing),
        on_bad,
        table,
        reading,
        update,
    )
    say(import_dataset(options))


@data.command("demo")
@_cache_option
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def demo_command(cache_dir: Path, seed: int) -> None:
    """Generate an RNA–protein set with a planted interaction."""
    from crossllm.pipeline.data.demo import write_demo

    say(write_demo(cache_dir, seed))
