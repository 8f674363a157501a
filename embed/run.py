"""`embed run`: records → encoder → cache.  Each distinct sequence once, whatever its ids; what is there is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cache import fsio
from cache.commit import commit_paths
from cache.console import say_notes, stop_between_records, write_skipped
from cache.errors import Conflict, InputError, RowsRefused, printable
from cache.idtable import publish_table
from cache.reader import CacheReader
from cache.recipe import Recipe, StorageType, list_recipes
from cache.records import UNITS, OnBad, Record, Records, read_records
from cache.writer import SEGMENT_BYTES, CacheWriter
from embed.encoder import BATCH_TOKENS, Encoder, EncoderInfo, Loading, find_encoder
from embed.weights import weights_digest

BATCH = 64
"""Records between two looks at what other writers have committed."""
FAILED_COLUMNS = ("id", "key", "length", "reason")


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
    long: Literal["error", "window"] | None = None
    """What to do with sequences beyond the encoder's limit.  None: as the cache's recipe has it, else an error."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Switches of the encoder; those not named are as the cache's recipe has them."""
    device: str = "cpu"
    batch_tokens: int = BATCH_TOKENS
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
    failed_list: str | None
    """File that lists what failed, with reasons."""


class Plan(NamedTuple):
    """The distinct sequences of the input, and which of them the cache lacks."""

    distinct: dict[bytes, Record]
    pending: list[Record]


class Outcome(NamedTuple):
    """What became of the pending sequences, filled while the run goes on."""

    stored: set[bytes]
    failures: dict[bytes, str]
    """Key → why its rows were refused."""


def default_cache(input_file: Path) -> Path:
    """The input's folder if that is a dataset, else `cache/<stem of the input>`."""
    if (input_file.parent / "dataset.toml").exists():
        return input_file.parent
    stem = input_file.name.removesuffix(".gz").rsplit(".", 1)[0]
    return Path("cache") / (stem or "embeddings")


def run(options: RunOptions) -> RunSummary:
    """Embed every distinct sequence of a file that the cache does not hold yet.

    Raises:
        InputError: bad records or sequences that are too long (one line each), no such encoder, weights that cannot
            be used; nothing was written.
        Conflict: the cache's recipe of this encoder differs from what was asked for.
    """
    records = read_records(options.input, options.modality, options.on_bad)
    say_notes(options.input, records.notes, records.skipped, "records")
    info = find_encoder(options.modality, options.encoder, options.weights)
    recipe = settle_recipe(options, info)
    plan = make_plan(options.cache_dir, recipe, records)
    refuse_too_long(options.input, info, recipe, plan.pending)
    encoder = _load(options, info, recipe) if plan.pending else None
    publish_table(options.cache_dir, options.modality, records.records)
    write_skipped(options.cache_dir, records.skipped)
    outcome = Outcome(set(), {})
    failed_list = recipe.folder(options.cache_dir) / "failed.tsv"
    try:
        if encoder is not None:
            _embed(options, encoder, recipe, plan, outcome)
            say_notes(options.input, encoder.notes, (), "molecules" if options.modality == "molecule" else "sequences")
    finally:
        if outcome.failures:
            _list_failures(failed_list, records, outcome.failures)
    if not outcome.failures:
        failed_list.unlink(missing_ok=True)  # an earlier run's, now made good; a run cut off above leaves it
    residues = sum(r.length for r in plan.distinct.values())
    already = len(plan.distinct) - len(outcome.stored) - len(outcome.failures)
    return RunSummary(
        str(options.cache_dir),
        recipe.folder_name,
        len(records.records),
        len(plan.distinct),
        residues,
        already,
        len(outcome.stored),
        len(outcome.failures),
        len(records.skipped),
        str(failed_list) if outcome.failures else None,
    )


def settle_recipe(options: RunOptions, info: EncoderInfo) -> Recipe:
    """The recipe to write: the cache's own of this encoder, weights and layer where it holds one, else the encoder's.

    Raises:
        InputError: the weights cannot be read, or the encoder has no such option.
        Conflict: the cache's differs in a field, which is named.
    """
    asked = info.recipe(None if options.weights is None else weights_digest(options.weights))
    same = [
        r
        for r in list_recipes(options.cache_dir, options.modality)
        if (r.encoder, r.weights, r.layer) == (asked.encoder, asked.weights, asked.layer)
    ]
    base = same[0] if len(same) == 1 else asked
    held = base.long if base.long in info.policies() else asked.long
    asked = dataclasses.replace(
        asked,
        dtype=options.dtype or base.dtype,
        long=held if options.long is None else info.policy(options.long),
        options=info.settled_options(options.options, base.options),
    )
    if asked in same or not same or options.new_recipe:
        return asked
    differences = "; ".join(asked.differences(same[0]))
    raise Conflict(
        f"{options.cache_dir}: already holds {same[0].folder_name}, which differs from this run in {differences}; "
        "leave the flag out to follow it, or start another recipe with --new-recipe"
    )


def refuse_too_long(path: Path, info: EncoderInfo, recipe: Recipe, pending: list[Record]) -> None:
    """Raise `InputError`, one line a record, where the encoder does not take a pending sequence whole."""
    if recipe.long != "whole" or info.limit is None:
        return
    takes = f"{info.name} takes {info.limit}"
    lines = [
        f"{path}: {record.length} {UNITS[info.modality]}, {takes} (record {printable(record.id)}); "
        "embed it in overlapping windows with --long window"
        for record in pending
        if record.length > info.limit
    ]
    if lines:
        raise InputError(lines)


def make_plan(cache_dir: Path, recipe: Recipe, records: Records) -> Plan:
    """Which distinct sequences the cache lacks, in file order."""
    distinct = {record.key: record for record in reversed(records.records)}  # the first id of a sequence names it
    missing = CacheReader(cache_dir, recipe).missing(reversed(distinct))
    return Plan(distinct, [distinct[key] for key in missing])


def _load(options: RunOptions, info: EncoderInfo, recipe: Recipe) -> Encoder:
    assert info.load is not None  # find_encoder refused the others
    return info.load(Loading(recipe, options.weights, options.device, options.batch_tokens))


def _embed(options: RunOptions, encoder: Encoder, recipe: Recipe, plan: Plan, outcome: Outcome) -> None:
    """Encode and store what is pending, noting in `outcome` what was stored and what was refused."""
    with (
        stop_between_records() as stopping,
        CacheWriter(options.cache_dir, recipe, segment_bytes=options.segment_bytes) as writer,
    ):
        pending = _not_done_by_others(options.cache_dir, recipe, plan.pending)
        for key, rows in _with_progress(encoder, pending, plan, options.quiet):
            expected = plan.distinct[key].length
            if rows.shape[0] != expected:
                raise RuntimeError(f"{encoder.name} gave {rows.shape[0]} rows for {expected} {UNITS[options.modality]}")
            try:
                writer.add(key, rows)
                outcome.stored.add(key)
            except RowsRefused as refusal:
                outcome.failures[key] = str(refusal)
            if stopping():
                break


def _not_done_by_others(cache_dir: Path, recipe: Recipe, pending: list[Record]) -> Iterator[Record]:
    """The pending records, the commits listed again before every `BATCH`: what another writer did is left out."""
    listed, reader = commit_paths(recipe.folder(cache_dir)), CacheReader(cache_dir, recipe)
    for start in range(0, len(pending), BATCH):
        if (now := commit_paths(recipe.folder(cache_dir))) != listed:
            listed, reader = now, CacheReader(cache_dir, recipe)
        yield from (record for record in pending[start : start + BATCH] if record.key not in reader)


def _with_progress(
    encoder: Encoder, pending: Iterable[Record], plan: Plan, quiet: bool
) -> Iterator[tuple[bytes, np.ndarray]]:
    from tqdm import tqdm

    residues = sum(record.length for record in plan.pending)
    # disable=None: no bar where standard error is not a terminal.
    hidden = True if quiet else None
    with tqdm(total=residues, unit="res", unit_scale=True, desc=encoder.name, disable=hidden) as bar:
        for key, rows in encoder.encode(pending):
            yield key, rows
            bar.update(rows.shape[0])


def _list_failures(path: Path, records: Records, failures: dict[bytes, str]) -> None:
    """Write `failed.tsv`: every id whose sequence could not be stored, with the reason."""
    rows = ((r.id, r.key.hex(), str(r.length), failures[r.key]) for r in records.records if r.key in failures)
    fsio.replace(path, "".join("\t".join(row) + "\n" for row in (FAILED_COLUMNS, *rows)).encode())
