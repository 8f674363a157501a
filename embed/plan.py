"""What `embed run` is asked for and what is to be done, settled before weights are loaded or anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cache.background import WRITE_AHEAD
from cache.commit import Store
from cache.errors import Conflict, InputError, printable
from cache.reader import CacheReader
from cache.recipe import Recipe, StorageType, held_like, refuse_other
from cache.recordlist import Distinct, RecordList
from cache.records import UNITS, OnBad, Records
from cache.writer import SEGMENT_BYTES
from cache.zarrfile import Compressor
from embed.encoder import BATCH_TOKENS, EncoderInfo
from embed.weights import weights_digest
from embed.windows import stored_rows

_RECORD_BYTES = 8 + 32 + 4
"""Of a segment's offsets, digest and crc32c."""
_TABLE_BYTES = 100
"""Of a record in the table of ids, about: key, length and an id."""
_SEGMENT_FILES = 9 * 4096
"""Of the small files of a segment, as blocks of a disk."""


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
    store: Store | None = None
    """How segments are laid down; readers need no word of it.  None, and no compressor: as the cache's are."""
    compressor: Compressor | Literal["none"] | None = None
    """Of Zarr segments."""
    ack_fd: int | None = None
    """Descriptor that is told the keys of what is committed, one a line in hex."""
    write_ahead: int = WRITE_AHEAD
    """Bytes of rows that may wait for the disk; 0: each record is written before the next is taken."""
    quiet: bool = False
    """Neither the plan nor a bar on standard error."""


class Layout(NamedTuple):
    """How segments are laid down."""

    store: Store
    compressor: Compressor | None


class Plan(NamedTuple):
    """The distinct sequences of the input, and which of them the cache lacks; n of them, in arrays."""

    distinct: Distinct
    places: np.ndarray
    """(p,) places among the distinct ones of those that the cache lacks, rising: the order of the file."""
    layout: Layout
    recipe: Recipe

    @property
    def pending(self) -> RecordList:
        """The p records that the cache lacks."""
        return self.distinct.records.take(self.places)

    @property
    def lengths(self) -> np.ndarray:
        """(p,) residues, nucleotides or atoms of each of them."""
        return np.asarray(self.distinct.lengths[self.places])

    @property
    def rows(self) -> np.ndarray:
        """(p,) rows to store of each of them: fewer than it is long where the recipe truncates."""
        return stored_rows(self.recipe, self.lengths)

    @property
    def residues(self) -> int:
        """Of all distinct sequences."""
        return int(self.distinct.lengths.sum())

    def bytes(self, segment_bytes: int, records: int) -> int:
        """About what a run adds to the disk, uncompressed: rows, what finds them, and a table of `records` ids.

        0 where the cache lacks nothing.
        """
        if not len(self.places):
            return 0
        rows = int(self.rows.sum()) * self.recipe.dim * np.dtype(self.recipe.dtype).itemsize
        segments = -(-rows // segment_bytes)
        return rows + len(self.places) * _RECORD_BYTES + segments * _SEGMENT_FILES + records * _TABLE_BYTES


def default_cache(input_file: Path) -> Path:
    """The input's folder if that is a dataset, else `cache/<stem of the input>`."""
    if (input_file.parent / "dataset.toml").exists():
        return input_file.parent
    stem = input_file.name.removesuffix(".gz").rsplit(".", 1)[0]
    return Path("cache") / (stem or "embeddings")


def existing_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def asked_layout(options: RunOptions) -> Layout:
    """The layout that flags ask for; a Zarr group, uncompressed, where they say nothing."""
    return Layout(options.store or "zarr", None if options.compressor == "none" else options.compressor)


def settle_recipe(options: RunOptions, info: EncoderInfo, weights: str | None = None) -> Recipe:
    """The recipe to write: the cache's own of this encoder, weights and layer where it holds one, else the encoder's.

    Args:
        options: what was asked for.
        info: the encoder.
        weights: digest to take for that of the weights where none are named.

    Raises:
        InputError: the weights cannot be read, or the encoder has no such option.
        Conflict: the cache's differs in a field, which is named.
    """
    digest = weights if options.weights is None else weights_digest(options.weights, options.quiet)
    asked = info.recipe(digest, options.layer)
    same = held_like(options.cache_dir, asked, "weights", "layer")
    if not options.new_recipe:
        same = _of_policy(options, info, same)
    base = same[0] if len(same) == 1 else asked
    held = base.long if base.long in info.policies() else asked.long
    if options.new_recipe:
        compute = info.compute(options.compute or base.compute, (), options.device)
    else:
        compute = info.compute(options.compute, same, options.device)
    asked = dataclasses.replace(
        asked,
        dtype=options.dtype or base.dtype,
        compute=compute,
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
        if by_flags and options.long not in ("window", "truncate"):
            fix = f"leave the flag out to follow it, or {fix}"
        refuse_other(options.cache_dir, asked, same, "run", fix)
    return asked


def _of_policy(options: RunOptions, info: EncoderInfo, held: list[Recipe]) -> list[Recipe]:
    """Of several recipes those of the policy that `--long` names; without the flag they must not differ in it."""
    policies = {recipe.long: recipe.folder_name for recipe in held}
    if len(policies) < 2:
        return held
    if options.long is None:
        names = " and ".join(f"{folder} ({long})" for long, folder in sorted(policies.items()))
        flags = " or ".join("error" if long == "whole" else long.partition(":")[0] for long in sorted(policies))
        raise Conflict(f"--long: the cache holds {names}; say which by --long {flags}")
    return [recipe for recipe in held if recipe.long == info.policy(options.long)] or held


def beyond_limit(info: EncoderInfo, lengths: np.ndarray) -> np.ndarray:
    """Places of those of these lengths that are beyond the encoder's limit, (m,)."""
    return np.flatnonzero(lengths > info.limit) if info.limit is not None else np.empty(0, np.int64)


def refuse_too_long(options: RunOptions, info: EncoderInfo, recipe: Recipe, pending: RecordList) -> None:
    """Raise `InputError`, one line a record, where the encoder does not take a pending sequence whole."""
    if not refuses_long(options, info, recipe):
        return
    too_long = pending.take(beyond_limit(info, pending.lengths))
    if not too_long:
        return
    ways = "embed it in overlapping windows with --long window"
    ways += ", or whole with --long whole" * info.rotary
    ways += f", or its first {info.limit} alone with --long truncate"
    if not options.new_recipe and held_like(options.cache_dir, recipe, "weights", "layer"):
        ways += "; windows and truncate are other recipes than this cache's, and need --new-recipe too"
    takes = f"{info.name} takes {info.limit}"
    raise InputError(
        f"{options.input}: {record.length} {UNITS[info.modality]}, {takes} (record {printable(record.id)}); "
        f"{ways if n == 0 else 'see --long'}"
        for n, record in enumerate(too_long)
    )


def refuses_long(options: RunOptions, info: EncoderInfo, recipe: Recipe) -> bool:
    """Whether a sequence beyond the encoder's limit stops the run."""
    return recipe.long == "whole" and info.limit is not None and options.long != "whole"


def make_plan(options: RunOptions, recipe: Recipe, records: Records) -> Plan:
    """Which distinct sequences the cache lacks, in file order, and how they are to be laid down."""
    distinct, reader = records.distinct(), CacheReader(options.cache_dir, recipe)
    layout = asked_layout(options)
    held = {segment.stored_as for segment in reader.segments}
    if options.store is None and options.compressor is None and len(held) == 1:
        layout = Layout(*held.pop())
    return Plan(distinct, np.flatnonzero(reader.absent(distinct.digests)), layout, recipe)
