"""`embed run`: parsing and printing only; `models` and `pull` are in `crossllm.embed.cli_weights`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from crossllm.cache.cli_flags import (
    ByteSize,
    PathName,
    dask_option,
    followed_store_options,
    on_bad_option,
    read_options,
)
from crossllm.cache.cli_remote import OR_ADDRESS, AnyCachePath, object_stores
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Group
from crossllm.cache.console.runner import run as run_program
from crossllm.cache.errors import InputError, PartlyDone
from crossllm.cache.records.modality import KINDS, MODALITIES, UNITS
from crossllm.embed.cli_options import encoder_switches
from crossllm.embed.cli_shards import from_cache_option, shard_options
from crossllm.embed.cli_weights import models_command, pull_command
from crossllm.embed.encoder import BATCH_TOKENS

if TYPE_CHECKING:
    from crossllm.embed.run.dry_run import DryRun
    from crossllm.embed.run.plan import RunOptions
    from crossllm.embed.run.run import RecipeSummary, RunSummary


class Layers(click.ParamType[tuple[int, ...]]):
    """N, or several as N,N,…"""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers, or a usage error; which layers there are, the encoder knows."""
        if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", str(value)):
            self.fail(f"'{value}' is not the number of a layer, or several as 6,12,33.", param, ctx)
        return tuple(map(int, str(value).split(",")))


def _one_list(_ctx: click.Context, _param: click.Parameter, given: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The only list given; a flag that is repeated would lose all but its last value in silence."""
    if len(given) > 1:
        raise InputError("--layer: is given twice; name all layers in one list, e.g. --layer 6,12,33")
    return given[0] if given else ()


@click.group(
    "embed",
    cls=Group,
    examples=(
        "embed models",
        "embed run --modality rna -i rna.fasta --encoder profile -c cache/mine",
    ),
)
def embed() -> None:
    """Run frozen encoders once over every distinct sequence, into a cache."""


@embed.command(
    "run",
    short_help="Embed every distinct sequence that the cache lacks.",
    examples=(
        "embed run --modality rna -i rna.fasta --encoder profile -c cache/mine",
        "embed run --modality protein -i protein.fasta --encoder esm2-650m --long window --dry-run",
        "embed run --modality molecule -i molecules.csv --encoder profile -c cache/mine --on-bad skip",
    ),
)
@click.option("--modality", type=click.Choice(MODALITIES), required=True, help="What the sequences are.")
@click.option(
    "--input",
    "-i",
    type=PathName(),
    required=True,
    help="FASTA file; for molecules `id TAB SMILES` lines, a CSV or TSV with columns id and smiles, or an SDF. "
    "Plain or gzip.",
)
@click.option(
    "--cache",
    "-c",
    "cache_dir",
    type=AnyCachePath(),
    default=None,
    help=f"Cache to write: a folder{OR_ADDRESS}. Default: the input's folder if it holds dataset.toml, else "
    "cache/<stem of input>.",
)
@object_stores("cache_dir", "from_cache")
@click.option("--encoder", default=None, help="Name of the encoder. Default: the modality's language model.")
@click.option(
    "--weights",
    type=PathName(),
    default=None,
    help="Weights: a safetensors, .pt, .pth or .npz file, or a Hugging Face folder.",
)
@click.option(
    "--long",
    type=click.Choice(["error", "window", "truncate", "whole"]),
    default=None,
    help="Sequences beyond the encoder's limit: stop and list them, embed overlapping windows, embed the start alone, "
    "or, where positions are rotary, embed them whole. Default: error; what the cache's recipe does where it has one.",
)
@click.option(
    "--layer",
    "layers",
    type=Layers(),
    multiple=True,
    callback=_one_list,
    metavar="N[,N,...]",
    help="Layers whose outputs are stored, counted from 1, e.g. 6,12,33: one pass of the model, a recipe for each. "
    "Default: the last.",
)
@click.option(
    "--compute",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    default=None,
    help="Type of the matrix products. Default: as the cache has it, float32 for a new recipe. auto: as the cache has "
    "it; for a new recipe bfloat16 where a short measurement finds the device faster in it.",
)
@encoder_switches
@click.option(
    "--batch-tokens",
    type=click.IntRange(1, 1 << 30),
    default=BATCH_TOKENS,
    show_default=True,
    help="Residues, nucleotides or atoms computed at once.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@dask_option("Workers of a Dask cluster embed")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default=None,
    help="Storage type. Default: as the cache has it, float16 for a new recipe.",
)
@on_bad_option("Bad records: stop and list them, or leave them out, listed and counted.")
@read_options
@shard_options
@from_cache_option
@click.option(
    "--new-recipe",
    is_flag=True,
    help="Start another recipe beside one of the same weights and layer that differs; other weights or another layer "
    "always start one.",
)
@click.option(
    "--segment-bytes",
    type=ByteSize(),
    default="256MiB",
    show_default=True,
    help="Rows after which a segment is committed; also every 60 s, at SIGTERM and at SIGUSR1.",
)
@followed_store_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say how many sequences, bytes and about what time it would take, and change nothing; needs no weights.",
)
@click.option(
    "--ack-fd",
    type=click.IntRange(0, 1 << 20),
    default=None,
    help="Open descriptor to write keys to, in hex, one a line: each once its rows are committed and on disk, in "
    "every layer.",
)
@click.option("--quiet", is_flag=True, help="No plan and no progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run_command(as_json: bool, dry_run: bool, cache_dir: Path | None, **asked: Any) -> None:
    """Embed every distinct sequence or molecule of a file that the cache does not hold yet."""
    from crossllm.embed.run.plan import RunOptions, default_cache
    from crossllm.embed.run.run import run

    asked_for = RunOptions(cache_dir=cache_dir or default_cache(asked["input"]), **asked)
    if dry_run:
        _plan_only(asked_for, as_json)
        return
    done = run(asked_for)
    if as_json:
        click.echo(_as_json(done))
    else:
        say(_in_words(done, asked_for.modality))
    if done.failed:
        raise PartlyDone(
            f"{part.failed_list}: lists {part.failed} sequences that could not be stored; the rest is done"
            for part in done.recipes
            if part.failed_list is not None
        )


def _as_json(found: RunSummary | DryRun) -> str:
    return json.dumps(found._asdict() | {"recipes": [part._asdict() for part in found.recipes]})


def _plan_only(asked_for: RunOptions, as_json: bool) -> None:
    from crossllm.embed.run.dry_run import dry_run
    from crossllm.embed.run.dry_run_lines import in_lines, warn

    found = dry_run(asked_for)
    click.echo(_as_json(found) if as_json else in_lines(found, asked_for.modality))
    warn(found)


def _in_words(done: RunSummary, modality: str) -> str:
    noun = "record" if done.records == 1 else "records"
    unit, kind = UNITS[modality], KINDS[modality]
    read = f"{done.records} {noun}, {done.distinct} distinct {kind}, {done.residues} {unit}"
    if done.num_shards is not None:
        read = f"shard {done.shard_index} of {done.num_shards}: {read}"
    special = [done.compute if done.compute != "float32" else "", done.long if done.long != "whole" else ""]
    recipe = ", ".join([_recipes_in_words(done.recipes), *filter(None, special)])
    copied = f", {done.copied} copied" if done.copied else ""
    if not any(part.embedded or part.failed for part in done.recipes):
        return f"{read}: nothing to embed{copied}, {done.already} are in {done.cache} ({recipe})"
    before = f", {done.already} were there{copied}" if done.already else copied
    pace = f"{done.residues_embedded} {unit} in {done.seconds:.1f} s"
    pace += f", {done.residues_embedded / max(done.seconds, 1e-3):.0f} a second"
    return f"{read}: embedded {done.embedded}{before} → {done.cache} ({recipe}); {pace}"


def _recipes_in_words(recipes: Sequence[RecipeSummary]) -> str:
    """Folder and layer of each; of several also what is new where that is not the same in all."""
    last = "last layer" if len(recipes) > 1 else ""
    differ = len({part.embedded for part in recipes}) > 1
    parts = (
        (part.recipe, f"layer {part.layer}" if part.layer else last, f"{part.embedded} new" if differ else "")
        for part in recipes
    )
    return "; ".join(", ".join(filter(None, part)) for part in parts)


embed.add_command(models_command)
embed.add_command(pull_command)


def main() -> NoReturn:
    """The `embed` program."""
    run_program(embed)
