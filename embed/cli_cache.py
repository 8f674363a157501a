"""`crossllm cache`: what is in `crossllm.cache`, `status`, `import` and `export`; parsing and printing only."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli import cache as store_commands
from crossllm.cache.cli_flags import (
    PathName,
    json_option,
    on_bad_option,
    quiet_option,
    read_options,
    store_options,
)
from crossllm.cache.cli_index import index_command
from crossllm.cache.cli_remote import any_cache_folder, object_stores
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Command, Group
from crossllm.cache.errors import printable
from crossllm.cache.records.modality import MODALITIES
from crossllm.embed.cli_shards import status_command

if TYPE_CHECKING:
    from crossllm.embed.foreign.exporting import ExportSummary
    from crossllm.embed.foreign.importing import ImportSummary

POOLED = ("csv", "npz")
FORMATS = ("hdf5", "npy", "pt", "safetensors", *POOLED)
"""Of `export`: the keys of `export_layouts.WRITERS`, to which a test holds them; help needs no numpy."""
_modality_option = click.option(
    "--modality", type=click.Choice(MODALITIES), required=True, help="What the sequences are."
)


class Strip(click.ParamType[tuple[int, int]]):
    """N,M: rows of special tokens at the start and at the end."""

    name = "n,m"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Both numbers, or a usage error."""
        found = re.fullmatch(r"([0-9]{1,4}),([0-9]{1,4})", str(value))
        if found is None:
            self.fail(f"'{printable(str(value))}' is not N,M; write e.g. 1,1 for one row at either end.", param, ctx)
        return int(found[1]), int(found[2])


@click.command(
    "import",
    cls=Command,
    short_help="Import embeddings made elsewhere.",
    examples=(
        "crossllm cache import --modality protein -i embeddings.h5 --fasta protein.fasta -c cache/mine",
        "crossllm cache import --modality protein -i esm/ --fasta protein.fasta -c cache/mine --strip 1,1",
    ),
)
@_modality_option
@click.option(
    "--input", "-i", type=PathName(), required=True,
    help="HDF5 or safetensors file, or a folder of .npy, fair-esm .pt or safetensors.",
)  # fmt: skip
@click.option(
    "--fasta",
    type=PathName(),
    required=True,
    help="The sequences, by the same ids: FASTA, or SMILES, CSV or SDF for molecules.",
)
@any_cache_folder
@object_stores("cache_dir")
@click.option("--source", default=None, help="Name of the recipe. Default: from the name of the input.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default=None,
    help="Storage type. Default: as the cache has it, float16 for a new recipe.",
)
@click.option("--layer", default=None, help="Which layer of fair-esm .pt files that hold several.")
@click.option(
    "--strip",
    type=Strip(),
    default="0,0",
    metavar="N,M",
    help="Cut N rows from the start and M from the end of every array: 1,1 for BOS and EOS.",
)
@click.option("--pooled", is_flag=True, help="The arrays are one vector a sequence; each is stored as its only row.")
@on_bad_option("Bad records and arrays: stop and list them, or leave them out, listed and counted.")
@read_options
@store_options
@quiet_option
@json_option
def import_command(as_json: bool, **asked: Any) -> None:
    """Import embeddings made elsewhere, by residue or pooled, as a recipe that names its source."""
    from crossllm.embed.foreign.importing import ImportOptions, import_embeddings

    if asked["pooled"] and any(asked["strip"]):
        raise click.UsageError("--strip cuts rows, and --pooled says that there is one vector; give one of them.")
    done = import_embeddings(ImportOptions(**asked))
    say(json.dumps(done._asdict()) if as_json else _imported(done))


def _imported(done: ImportSummary) -> str:
    where = f"{done.cache} ({done.recipe})"
    read = f"{done.layout}: {done.distinct} sequences with rows, {done.without} without"
    if done.imported:
        before = f", {done.already} were there" if done.already else ""
        return f"{read}: imported {done.imported}{before} → {where}"
    return f"{read}: nothing to import, {done.already} are in {where}"


@click.command(
    "export",
    cls=Command,
    short_help="Write embeddings as other tools read them.",
    examples=(
        "crossllm cache export cache/mine --modality rna --format hdf5 -o rna.h5",
        "crossllm cache export cache/mine --modality rna --format csv --pool max -o rna.csv",
    ),
)
@any_cache_folder
@object_stores("cache_dir")
@_modality_option
@click.option("--recipe", default=None, help="Encoder, folder name or digest, where there are several recipes.")
@click.option("--format", "layout", type=click.Choice(FORMATS), required=True, help="csv and npz hold pooled vectors.")
@click.option("--output", "-o", type=PathName(), required=True, help="New file or folder.")
@click.option("--pool", type=click.Choice(["mean", "max"]), default=None, help="For csv and npz. Default: mean.")
@quiet_option
@json_option
def export_command(as_json: bool, **asked: Any) -> None:
    """Write embeddings as other tools read them: hdf5, csv and npz one file, npy, pt and safetensors a folder.

    hdf5, npy, pt and safetensors hold one array a distinct sequence, named by its first id; csv and npz one pooled
    vector an id.
    """
    from crossllm.embed.foreign.exporting import ExportOptions, export_embeddings

    done = export_embeddings(ExportOptions(**asked))
    say(json.dumps(done._asdict()) if as_json else _exported(done))


def _exported(done: ExportSummary) -> str:
    if done.layout in POOLED:
        return f"{done.ids} pooled vectors, one an id → {done.output}; which is which: {done.mapping}"
    what = f"{done.sequences} arrays, one a distinct sequence, for {done.ids} ids"
    return f"{what} → {done.output}; which id has which: {done.mapping}"


cache = Group(
    "cache",
    commands=[*store_commands.commands.values(), index_command, status_command, import_command, export_command],
    help=store_commands.help,
    examples=store_commands.examples,
)
"""What `crossllm cache` is; `crossllm.cache.cli` cannot import what reads torch files, and stays what it was."""
