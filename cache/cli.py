"""`crossllm cache info|verify`: parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cache.console import note
from cache.errors import CacheCorrupt
from cache.inspection import info, verify

_cache_option = click.option(
    "--cache", "cache_dir", type=click.Path(path_type=Path), required=True, help="Folder of the cache."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output.")


@click.group("cache")
def cache() -> None:
    """Look into a cache of embeddings and check it."""


@cache.command("info")
@_cache_option
@_json_option
def info_command(cache_dir: Path, as_json: bool) -> None:
    """List the recipes a cache holds, with their sizes."""
    recipes = [found._asdict() for found in info(cache_dir)]
    if as_json:
        click.echo(json.dumps({"recipes": recipes}, indent=1))
        return
    click.echo(
        f"{'modality':10} {'encoder':20} {'digest':16} {'sequences':>9} {'residues':>12} {'MiB':>9} segments dtype"
    )
    for r in recipes:
        click.echo(
            f"{r['modality']:10} {r['encoder']:20} {r['digest'][:16]:16} {r['sequences']:9} {r['residues']:12} "
            f"{r['bytes'] / 2**20:9.1f} {r['segments']:8} {r['dtype']}"
        )


@cache.command("verify")
@_cache_option
@click.option("--data", is_flag=True, help="Read and check every byte, not only structure and small files.")
@_json_option
def verify_command(cache_dir: Path, data: bool, as_json: bool) -> None:
    """Check a cache; exit 3 and one line for each damaged file or record."""
    report = verify(cache_dir, data=data)
    if as_json:
        found = report._asdict() | {"leftovers": [str(path) for path in report.leftovers]}
        click.echo(json.dumps(found, indent=1))
    if report.leftovers:
        note(
            f"{len(report.leftovers)} uncommitted segment folders of interrupted or running writers, ignored by readers"
        )
    if report.damage:
        raise CacheCorrupt(report.damage)
    if not as_json:
        checked = "every byte" if data else "structure and small files"
        click.echo(f"clean: {report.segments} segments, {report.records} records, {checked} checked")
