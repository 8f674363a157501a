"""`crossllm cache index`: parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path

import click

from crossllm.cache.cli_flags import json_option, quiet_option
from crossllm.cache.cli_remote import any_cache_folder, object_stores
from crossllm.cache.console.messages import say, size_in_words
from crossllm.cache.console.once import Command


@click.command(
    "index",
    cls=Command,
    short_help="Make the key index of a cache of many segments.",
    examples=(
        "crossllm cache index cache/mine",
        "crossllm cache index -c cache/mine --json",
    ),
)
@any_cache_folder
@object_stores("cache_dir")
@quiet_option
@json_option
def index_command(cache_dir: Path, quiet: bool, as_json: bool) -> None:
    """Write which segment holds which key into one file, so that a cache of many thousand segments opens at once.

    Segments that are committed later are read beside it; make it again when there are thousands of these. It says
    nothing that the segments do not say, and may be deleted at any time.
    """
    from crossllm.cache.maintenance.indexing import index

    made = index(cache_dir, quiet=quiet)
    if as_json:
        click.echo(json.dumps({"recipes": [one._asdict() for one in made]}))
        return
    for one in made:
        say(f"{one.recipe}: {one.keys:,} records of {one.segments:,} segments, {size_in_words(one.bytes)}")
    if not made:
        say("nothing to index")
