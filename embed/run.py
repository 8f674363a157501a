"""`embed run`: records → encoder → cache.  Each distinct sequence once, whatever its ids; what is there is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cache import fsio
from cache.console import say_notes, stop_between_records
from cache.errors import Conflict, PartlyDone, RowsRefused
from cache.idtable import publish_table
from cache.reader import CacheReader
from cache.recipe import Recipe, StorageType, list_recipes
from cache.records import OnBad, Record, Records, read_fasta
from cache.writer import SEGMENT_BYTES, CacheWriter
from embed.encoder import Encoder, load_encoder


@dataclass(frozen=True)
class RunOptions:
    """What `embed run` was asked for."""

    modality: str
    input: Path
    cache_dir: Path
    encoder: str | None = None
    """None: the modality's language model."""
    weights: Path | None = None
    dtype: StorageType | None = None
    """None: as the cache's recipe has it, float16 for a new one."""
    on_bad: OnBad = "error"
    new_recipe: bool = False
    """Start another recipe although the cache holds one of this encoder."""
    segment_bytes: int = SEGMENT_BYTES
    quiet: bool = False


class RunSummary(NamedTuple):
    """What one `embed run` did."""

    cache: str
    recipe: str
    """Folder name of the recipe."""
    records: int
    distinct: int
    """Distinct sequences of the input."""
    residues: int
    """Of the distinct sequences."""
    already: int
    """Distinct sequences that were in the cache before."""
    embedded: int
    failed: int
    skipped: int
    """Bad records left out under `--on-bad skip`."""


class Plan(NamedTuple):
    """The distinct sequences of the input, and which of them the cache lacks."""

    distinct: dict[bytes, Record]
    pending: list[Record]


def default_cache(input_file: Path) -> Path:
    """The input's folder if that is a dataset, else `cache/<stem of the input>`."""
    if (input_file.parent / "dataset.toml").exists():
        return input_file.parent
    stem = input_file.name.removesuffix(".gz").rsplit(".", 1)[0]
    return Path("cache") / (stem or "embeddings")


def run(options: RunOptions) -> RunSummary:
    """Embed every distinct sequence of a file that the cache does not hold yet.

    Raises:
        InputError: bad records (one line each) or no such encoder; nothing was written.
        Conflict: the cache's recipe of this encoder differs from what was asked for.
        PartlyDone: some sequences could not be stored; they are listed in `failed.tsv`.
    """
    records = read_fasta(options.input, options.modality, options.on_bad)
    say_notes(options.input, records.notes, records.skipped, "records")
    encoder = load_encoder(options.modality, options.encoder, options.weights)
    recipe = settle_recipe(options, encoder)
    plan = make_plan(options.cache_dir, recipe, records)
    publish_table(options.cache_dir, options.modality, records.records)
    failures = _embed(options, encoder, recipe, plan)
    residues = sum(len(r.sequence) for r in plan.distinct.values())
    embedded = len(plan.pending) - len(failures)
    summary = RunSummary(
        str(options.cache_dir),
        recipe.folder_name,
        len(records.records),
        len(plan.distinct),
        residues,
        len(plan.distinct) - len(plan.pending),
        embedded,
        len(failures),
        len(records.skipped),
    )
    if failures:
        raise PartlyDone(_list_failures(options.cache_dir, records, failures))
    return summary


def settle_recipe(options: RunOptions, encoder: Encoder) -> Recipe:
    """The recipe to write: the cache's own of this encoder, weights and layer where it holds one, else the encoder's.

    Raises:
        Conflict: the cache's differs in a field, which is named.
    """
    asked = encoder.recipe()
    same = [
        r
        for r in list_recipes(options.cache_dir, options.modality)
        if (r.encoder, r.weights, r.layer) == (asked.encoder, asked.weights, asked.layer)
    ]
    dtype = options.dtype or (same[0].dtype if len(same) == 1 else "float16")
    asked = dataclasses.replace(asked, dtype=dtype)
    if asked in same or not same or options.new_recipe:
        return asked
    differences = "; ".join(asked.differences(same[0]))
    raise Conflict(
        f"{options.cache_dir}: already holds {same[0].folder_name}, which differs from this run in {differences}; "
        "leave the flag out to follow it, or start another recipe with --new-recipe"
    )


def make_plan(cache_dir: Path, recipe: Recipe, records: Records) -> Plan:
    """Which distinct sequences the cache lacks, in file order."""
    distinct = {record.key: record for record in reversed(records.records)}  # the first id of a sequence names it
    missing = CacheReader(cache_dir, recipe).missing(reversed(distinct))
    return Plan(distinct, [distinct[key] for key in missing])


def _embed(options: RunOptions, encoder: Encoder, recipe: Recipe, plan: Plan) -> dict[bytes, str]:
    """Encode and store what is pending; key → reason of each sequence that was refused."""
    failures: dict[bytes, str] = {}
    if not plan.pending:
        return failures
    with (
        stop_between_records() as stopping,
        CacheWriter(options.cache_dir, recipe, segment_bytes=options.segment_bytes) as writer,
    ):
        for key, rows in _with_progress(encoder, plan.pending, options.quiet):
            expected = len(plan.distinct[key].sequence)
            if rows.shape[0] != expected:
                raise RuntimeError(f"{encoder.name} gave {rows.shape[0]} rows for {expected} residues")
            try:
                writer.add(key, rows)
            except RowsRefused as refusal:
                failures[key] = str(refusal)
            if stopping():
                break
    return failures


def _with_progress(encoder: Encoder, pending: list[Record], quiet: bool) -> Iterator[tuple[bytes, np.ndarray]]:
    from tqdm import tqdm

    residues = sum(len(record.sequence) for record in pending)
    # disable=None: no bar where standard error is not a terminal.
    with tqdm(total=residues, unit="res", unit_scale=True, desc=encoder.name, disable=True if quiet else None) as bar:
        for key, rows in encoder.encode(pending):
            yield key, rows
            bar.update(rows.shape[0])


def _list_failures(cache_dir: Path, records: Records, failures: dict[bytes, str]) -> str:
    lines = ["id\tkey\tlength\treason\n"]
    lines += [
        f"{r.id}\t{r.key.hex()}\t{len(r.sequence)}\t{failures[r.key]}\n" for r in records.records if r.key in failures
    ]
    path = cache_dir / "failed.tsv"
    fsio.replace(path, "".join(lines).encode())
    return f"{path}: lists {len(failures)} sequences that could not be stored, with reasons; the rest is done"
