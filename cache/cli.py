"""`crossllm cache info|verify|repair|gc|compact|merge`: parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli_flags import (
    ByteSize,
    cache_folder,
    dry_run_option,
    json_option,
    quiet_option,
)
from crossllm.cache.cli_remote import AnyCachePath, any_cache_folder, any_cache_option, object_stores
from crossllm.cache.console.messages import note, say
from crossllm.cache.console.once import Group
from crossllm.cache.errors import CacheCorrupt, InputError, printable

if TYPE_CHECKING:
    from crossllm.cache.maintenance.integrity import Subset

_segment_bytes_option = click.option(
    "--segment-bytes",
    type=ByteSize(),
    default="256MiB",
    show_default=True,
    help="Rows after which a segment is committed.",
)


class SubsetType(click.ParamType["Subset"]):
    """N/T: the N-th of T parts."""

    name = "n/t"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Subset:
        """The part, or a usage error."""
        part, slash, parts = str(value).partition("/")
        digits = part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit() and len(parts) < 10
        if not slash or not digits or not 1 <= int(part) <= int(parts):
            self.fail(f"'{printable(str(value))}' is no part; write N/T with N from 1 to T, e.g. 3/7.", param, ctx)
        from crossllm.cache.maintenance.integrity import Subset

        return Subset(int(part), int(parts))


@click.group(
    "cache",
    cls=Group,
    examples=(
        "crossllm cache info cache/mine",
        "crossllm cache verify cache/mine --data",
    ),
)
def cache() -> None:
    """Look into a cache of embeddings, check it, repair it and tidy it up."""


@cache.command(
    "info",
    examples=(
        "crossllm cache info cache/mine",
        "crossllm cache info -c cache/mine --json",
    ),
)
@any_cache_folder
@object_stores("cache_dir")
@json_option
def info_command(cache_dir: Path, as_json: bool) -> None:
    """List the recipes a cache holds, with their sizes."""
    from crossllm.cache.maintenance.inspection import info

    recipes = [found._asdict() for found in info(cache_dir)]
    if as_json:
        click.echo(json.dumps({"recipes": recipes}, indent=1))
        return
    say(
        f"{'modality':10} {'encoder':20} {'digest':16} {'sequences':>9} {'residues':>12} {'MiB':>9} segments "
        "dtype    compute  layer long"
    )
    for r in recipes:
        say(
            f"{r['modality']:10} {r['encoder']:20} {r['digest'][:16]:16} {r['sequences']:9} {r['residues']:12} "
            f"{r['bytes'] / 2**20:9.1f} {r['segments']:8} {r['dtype']:8} {r['compute']:8} {r['layer']:5} {r['long']}"
        )


@cache.command(
    "verify",
    short_help="Check a cache, and name each damaged record.",
    examples=(
        "crossllm cache verify cache/mine",
        "crossllm cache verify cache/mine --data",
        "crossllm cache verify cache/mine --data-subset 3/7",
    ),
)
@any_cache_folder
@object_stores("cache_dir", fresh=True)
@click.option("--data", is_flag=True, help="Read and check every byte, not only structure and small files.")
@click.option(
    "--data-subset",
    "subset",
    type=SubsetType(),
    help="Read and check the N-th of T parts of the records, with N/T: over N = 1 … T everything is read once.",
)
@quiet_option
@json_option
def verify_command(cache_dir: Path, data: bool, subset: Subset | None, quiet: bool, as_json: bool) -> None:
    """Check a cache; exit 3 and one line for each damaged record or file."""
    from crossllm.cache.maintenance.inspection import verify

    if data and subset:
        raise click.UsageError("--data reads everything and --data-subset a part; give one of them.")
    report = verify(cache_dir, data=data or subset is not None, subset=subset, quiet=quiet)
    if as_json:
        leftovers = [str(path) for path in report.leftovers]
        found = report._asdict() | {"damage": [d.as_json() for d in report.damage], "leftovers": leftovers}
        click.echo(json.dumps(found, indent=1))
    if report.leftovers:
        note(
            f"{len(report.leftovers)} uncommitted segment folders of interrupted or running writers, ignored by "
            "readers; `crossllm cache gc` removes those that are left behind"
        )
    if report.damage and all(found.kind == "newer" for found in report.damage):
        raise InputError(map(str, report.damage))
    if report.damage:
        raise CacheCorrupt(map(str, report.damage))
    if not as_json:
        part = f"part {subset.part} of {subset.parts} of the records" if subset else "every byte"
        checked = part if data or subset else "structure and small files; --data reads the rows"
        say(f"clean: {report.segments} segments, {report.records} records; checked: {checked}")


@cache.command(
    "repair",
    short_help="Drop what is damaged, and only that.",
    examples=(
        "crossllm cache repair cache/mine --dry-run",
        "crossllm cache repair cache/mine",
    ),
)
@cache_folder
@dry_run_option
@quiet_option
@json_option
def repair_command(cache_dir: Path, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Drop what is damaged, and only that, so that the next `embed run` makes it again.

    Exit 3 when damage is left that nothing in the cache can make good.
    """
    from crossllm.cache.maintenance.damage import named
    from crossllm.cache.maintenance.repair import repair

    done = repair(cache_dir, dry_run=dry_run, quiet=quiet)
    if as_json:
        lists = {"dropped": [d._asdict() for d in done.dropped], "left": [d.as_json() for d in done.left]}
        click.echo(json.dumps(done._asdict() | lists, indent=1))
    else:
        for lost in done.dropped:
            what = named(bytes.fromhex(lost.key), lost.ids)
            say(f"{'would drop' if dry_run else 'dropped'} {what} of {lost.recipe}")
        would = "would be " if dry_run else ""
        keyless = f", and at most {done.keyless} whose keys are lost" if done.keyless else ""
        if done.segments:
            say(
                f"{len(done.segments)} damaged segments {would}replaced, {done.kept} records of theirs {would}kept, "
                f"{len(done.dropped)} {would}dropped{keyless}"
            )
        elif not done.left:
            say("nothing to repair")
        for segment in done.unknown:
            say(f"{would}lost: all records of segment {segment}; which and how many, its files do not say")
        for command in done.again:
            say(f"to make them again: {command}")
    if done.left:
        raise CacheCorrupt(map(str, done.left))


@cache.command(
    "gc",
    short_help="Remove superseded segments, and what dead writers left.",
    examples=(
        "crossllm cache gc cache/mine --dry-run",
        "crossllm cache gc cache/mine",
    ),
)
@cache_folder
@dry_run_option
@json_option
def gc_command(cache_dir: Path, dry_run: bool, as_json: bool) -> None:
    """Remove superseded segments, and what dead writers left behind.

    A segment without a commit record goes when its writer is a dead process of this host, or after a week.
    """
    from crossllm.cache.maintenance.garbage_collection import collect_garbage

    done = collect_garbage(cache_dir, dry_run=dry_run)
    if as_json:
        lists = {name: list(map(str, found)) for name, found in done._asdict().items() if name != "bytes"}
        click.echo(json.dumps(lists | {"bytes": done.bytes}, indent=1))
    else:
        say(
            f"{'would remove' if dry_run else 'removed'} {len(done.superseded)} superseded and {len(done.abandoned)} "
            f"abandoned segments and {len(done.temporary)} temporary files, {done.bytes / 2**20:.1f} MiB"
        )
    if done.kept:
        note(f"{len(done.kept)} uncommitted segments stay: somebody may be writing them (for a week at most)")
    for folder in done.unsure:
        note(f"{folder}: superseded segments stay, what replaced them is damaged; run `crossllm cache repair` first")


@cache.command(
    "compact",
    short_help="Make few segments of many small ones.",
    examples=(
        "crossllm cache compact cache/mine",
        "crossllm cache compact cache/mine --segment-bytes 1GiB",
    ),
)
@cache_folder
@_segment_bytes_option
@dry_run_option
@quiet_option
@json_option
def compact_command(cache_dir: Path, segment_bytes: int, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Make few segments of many small ones, and keep a record that several hold once."""
    from crossllm.cache.maintenance.compact import compact

    done = compact(cache_dir, segment_bytes=segment_bytes, dry_run=dry_run, quiet=quiet)
    if as_json:
        click.echo(json.dumps(done._asdict(), indent=1))
    elif not done.sources:
        say("nothing to compact")
    elif dry_run:
        say(f"would rewrite {done.sources} segments, {done.bytes / 2**20:.1f} MiB")
    else:
        say(
            f"{done.sources} segments → {done.outputs}, {done.records} records, {done.duplicates} duplicates left out; "
            f"`crossllm cache gc` frees {done.bytes / 2**20:.1f} MiB"
        )
    if done.damage:
        raise CacheCorrupt(done.damage)


@cache.command(
    "merge",
    short_help="Copy into a cache what other caches hold.",
    examples=(
        "crossllm cache merge -c cache/all cache/part1 cache/part2",
        "crossllm cache merge -c cache/mine cache/shared --only-needed --link",
    ),
)
@any_cache_option
@click.argument("sources", nargs=-1, required=True, type=AnyCachePath())
@object_stores("cache_dir", "sources")
@click.option(
    "--rows-only", is_flag=True, help="Leave the ids where they are: those of two datasets may clash, rows never do."
)
@click.option(
    "--only-needed", is_flag=True, help="Take the rows of the sequences that --cache lists alone, and no ids."
)
@click.option(
    "--link",
    is_flag=True,
    help="Hard links for segments that are wanted whole: no space, but no second copy either.",
)
@_segment_bytes_option
@quiet_option
@json_option
def merge_command(
    cache_dir: Path,
    sources: tuple[Path, ...],
    rows_only: bool,
    only_needed: bool,
    link: bool,
    segment_bytes: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Copy into --cache what the caches SOURCES hold and it does not; the sources stay as they are."""
    from crossllm.cache.maintenance.merge import merge
    from crossllm.cache.remote.by_path import mirror_of

    if link and any(mirror_of(folder) for folder in (cache_dir, *sources)):
        raise InputError("--link: links files of one disk, and a cache in an object store lies on none; leave it out")
    done = merge(
        cache_dir,
        sources,
        segment_bytes=segment_bytes,
        quiet=quiet,
        rows_only=rows_only,
        only_needed=only_needed,
        link=link,
    )
    if as_json:
        click.echo(json.dumps(done._asdict(), indent=1))
    else:
        from crossllm.cache.remote.opening import shown

        linked = f"; {done.linked} segments linked, not copied" if done.linked else ""
        say(
            f"copied {done.records} records, {done.bytes / 2**20:.1f} MiB, and {done.ids} ids → {shown(cache_dir)}; "
            f"{done.already} records were there{linked}"
        )
    if done.left_out:
        note(f"not merged, records and embeddings only are: {', '.join(done.left_out)}")
    if done.damage:
        raise CacheCorrupt(done.damage)
