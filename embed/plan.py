"""What `embed run` is asked for and what is to be done, settled before weights are loaded or anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from cache.commit import Store
from cache.errors import InputError, printable
from cache.reader import CacheReader
from cache.recipe import Recipe, StorageType, held_like, refuse_other
from cache.records import UNITS, OnBad, Record, Records
from cache.writer import SEGMENT_BYTES
from cache.zarrfile import Compressor
from embed.encoder import BATCH_TOKENS, EncoderInfo
from embed.weights import weights_digest


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
    long: Literal["error", "window", "truncate", "whole"] | None = None
    """What to do with sequences beyond the encoder's limit.  None: as the cache's recipe has it, else an error."""
    layer: int | None = None
    """Layer whose output is wanted, counted from 1; None: the last."""
    compute: str | None = None
    """Type of the matrix products.  None: as the cache's recipe has it, else the encoder's default; `auto`: else what
    the device is made for."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Switches of the encoder; those not named are as the cache's recipe has them."""
    device: str = "cpu"
    batch_tokens: int = BATCH_TOKENS
    on_bad: OnBad = "error"
    new_recipe: bool = False
    """Start another recipe although the cache holds one of this encoder."""
    segment_bytes: int = SEGMENT_BYTES
    store: Store = "zarr"
    """How segments are laid down; readers need no word of it."""
    compressor: Compressor | None = None
    """Of Zarr segments."""
    ack_fd: int | None = None
    """Descriptor that is told the keys of what is committed, one a line in hex."""
    quiet: bool = False


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


def settle_recipe(options: RunOptions, info: EncoderInfo) -> Recipe:
    """The recipe to write: the cache's own of this encoder, weights and layer where it holds one, else the encoder's.

    Raises:
        InputError: the weights cannot be read, or the encoder has no such option.
        Conflict: the cache's differs in a field, which is named.
    """
    asked = info.recipe(
        None if options.weights is None else weights_digest(options.weights, options.quiet), options.layer
    )
    same = held_like(options.cache_dir, asked, "weights", "layer")
    base = same[0] if len(same) == 1 else asked
    held = base.long if base.long in info.policies() else asked.long
    asked = dataclasses.replace(
        asked,
        dtype=options.dtype or base.dtype,
        compute=info.compute(options.compute, same, options.device)
        if not options.new_recipe
        else info.compute(options.compute or base.compute, (), options.device),
        long=held if options.long is None else info.policy(options.long),
        options=info.settled_options(options.options, base.options),
    )
    if not options.new_recipe:
        # What flags say; the rest is the encoder's own, or RDKit's.
        by_flags = (
            dataclasses.replace(asked, dtype=base.dtype, compute=base.compute, long=base.long, options=base.options)
            in same
        )
        fix = "start another recipe with --new-recipe"
        fix = (
            f"leave the flag out to follow it, or {fix}"
            if by_flags and options.long not in ("window", "truncate")
            else fix
        )
        refuse_other(options.cache_dir, asked, same, "run", fix)
    return asked


def refuse_too_long(options: RunOptions, info: EncoderInfo, recipe: Recipe, pending: list[Record]) -> None:
    """Raise `InputError`, one line a record, where the encoder does not take a pending sequence whole."""
    if recipe.long != "whole" or info.limit is None or options.long == "whole":
        return
    too_long = [record for record in pending if record.length > info.limit]
    if not too_long:
        return
    ways = "embed it in overlapping windows with --long window"
    ways += ", or whole with --long whole" * info.rotary
    ways += f", or its first {info.limit} alone with --long truncate"
    if held_like(options.cache_dir, recipe, "weights", "layer"):
        ways += "; windows and truncate are other recipes than this cache's, and need --new-recipe too"
    takes = f"{info.name} takes {info.limit}"
    raise InputError(
        f"{options.input}: {record.length} {UNITS[info.modality]}, {takes} (record {printable(record.id)}); {ways}"
        for record in too_long
    )


def make_plan(cache_dir: Path, recipe: Recipe, records: Records) -> Plan:
    """Which distinct sequences the cache lacks, in file order."""
    distinct = records.distinct()
    missing = CacheReader(cache_dir, recipe).missing(distinct)
    return Plan(distinct, [distinct[key] for key in missing])
