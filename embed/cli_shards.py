"""Flags of `embed run` that a job array needs, and `crossllm cache status`; parsing and printing only."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli_flags import PathName, cache_folder_of, json_option, on_bad_option, read_options
from crossllm.cache.cli_remote import OR_ADDRESS, AnyCachePath, object_stores
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Command
from crossllm.cache.records.modality import KINDS, MODALITIES, UNITS

if TYPE_CHECKING:
    from crossllm.embed.run.shard_status import ShardStatus

_count = click.IntRange(1, 1 << 20)
_first_index = click.option(
    "--first-index",
    type=click.IntRange(0, 1),
    default=None,
    help="Number of the array's first task, where only some of its tasks are submitted. Default: as the array has it.",
)


def shard_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--shard-index`, `--num-shards` and `--first-index`; the command gets them as `shard`, None for everything."""

    @functools.wraps(command)
    def with_shard(*, shard_index: int | None, num_shards: int | None, first_index: int | None, **asked: Any) -> Any:
        from crossllm.embed.run.array_job import asked_shard

        return command(shard=asked_shard(shard_index, num_shards, first_index, os.environ), **asked)

    flags = (
        click.option(
            "--shard-index",
            type=click.IntRange(0, (1 << 20) - 1),
            default=None,
            help="Embed this of --num-shards parts alone, counted from 0. Default: the task's place in a job array of "
            "SLURM, LSF or PBS.",
        ),
        click.option(
            "--num-shards",
            type=_count,
            default=None,
            help="Parts of about equal residues that the sequences are cut into, by key. Default: the tasks of the job "
            "array; 1: everything, also in an array.",
        ),
        _first_index,
    )
    for flag in reversed(flags):
        with_shard = flag(with_shard)
    return with_shard


from_cache_option = click.option(
    "--from-cache",
    type=AnyCachePath(),
    default=None,
    help="Take the rows that this other cache has by the same recipe, and embed the rest; linked where that can be.",
)


@click.command(
    "status",
    cls=Command,
    short_help="Say which shards of a file are embedded.",
    examples=(
        "crossllm cache status -i rna.fasta -c cache/mine --num-shards 10",
        "crossllm cache status -i rna.fasta -c cache/mine --num-shards 10 --first-index 1 --json",
    ),
)
@click.option("--input", "-i", type=PathName(), required=True, help="The file that `embed run` was given.")
@click.option("--num-shards", type=_count, required=True, help="Shards that it is cut into.")
@cache_folder_of(AnyCachePath(), f"{OR_ADDRESS}. Default: as `embed run` takes it", needed=False)
@object_stores("cache_dir")
@click.option(
    "--modality",
    type=click.Choice(MODALITIES),
    default=None,
    help="What the sequences are. Default: the only one that the cache has rows of.",
)
@click.option("--recipe", default=None, help="Encoder, folder name or digest, where there are several recipes.")
@_first_index
@on_bad_option("Bad records: stop and list them, or leave them out, as `embed run` did.")
@read_options
@json_option
def status_command(as_json: bool, first_index: int | None, **asked: Any) -> None:
    """Say which shards of a file are complete, partial, failed or not begun, and the job array that runs the rest."""
    from crossllm.embed.run.shard_status import StatusOptions, shard_status

    found = shard_status(StatusOptions(**asked))
    first = first_index or 0
    if as_json:
        shards = [shard._asdict() | {"state": shard.state} for shard in found.shards]
        click.echo(json.dumps(found._asdict() | {"shards": shards, "rest": ranges(found.rest, first)}))
    else:
        say(*_in_lines(found, first))


def _in_lines(found: ShardStatus, first: int) -> list[str]:
    """A line for each state that shards are in, and what to submit for the rest."""
    kind, unit = KINDS[found.modality], UNITS[found.modality]
    total, residues = sum(s.sequences for s in found.shards), sum(s.residues for s in found.shards)
    where = f"{found.cache} ({found.recipe or f'no rows of {found.modality} yet'})"
    count = len(found.shards)
    lines = [f"{count} shards of {total:,} distinct {kind}, {residues:,} {unit}: {where}"]
    for state in ("complete", "partial", "failed", "not begun"):
        shards = [shard for shard in found.shards if shard.state == state]
        if not shards:
            continue
        lacking, failed = sum(s.missing for s in shards), sum(s.failed for s in shards)
        told = f"; {lacking:,} of {sum(s.sequences for s in shards):,} {kind} lack rows" if lacking else ""
        told += f", {failed:,} of these failed" if failed else ""
        lines.append(f"{state:9} {len(shards):6}   {ranges([s.shard for s in shards], first)}{told}")
    if found.rest:
        flags = f"--num-shards {count} --first-index {first}"
        lines.append(f"the rest: --array={ranges(found.rest, first)}, with `embed run … {flags}`")
    lines += [f"why they failed: {path}" for path in found.failed_lists]
    return lines


def ranges(numbers: Sequence[int], first: int = 0) -> str:
    """Rising numbers as the list of a job array, counted from `first`: 0,2-5."""
    parts: list[list[int]] = []
    for number in (n + first for n in numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
