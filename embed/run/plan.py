"""What `embed run` is asked for and what is to be done, known before weights are loaded or anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.console.messages import note, say_notes
from crossllm.cache.errors import InputError
from crossllm.cache.files.paths import code_problem
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record_list import Distinct, RecordList, Records
from crossllm.cache.records.shards import Shard, of_shard
from crossllm.cache.store.background_writer import WRITE_AHEAD
from crossllm.cache.store.layout import Compressor, StorageType, Store
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.writer import SEGMENT_BYTES
from crossllm.embed.encoder import BATCH_TOKENS
from crossllm.embed.encoders.windows import stored_rows

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
    layers: tuple[int, ...] = ()
    """Layers whose outputs are wanted, counted from 1, a recipe each; none named: the last."""
    compute: str | None = None
    """Type of the matrix products.  None: as the cache's recipe has it, else the encoder's default; `auto`: else what
    the device is made for."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Switches of the encoder; those not named are as the cache's recipe has them."""
    device: str = "cpu"
    batch_tokens: int = BATCH_TOKENS
    on_bad: OnBad = "error"
    reading: ReadOptions = ReadOptions()
    """How the input is read where it does not say so itself."""
    shard: Shard | None = None
    """The part of the sequences that this run embeds; None: all."""
    from_cache: Path | None = None
    """Another cache, whose rows of the same recipes are taken before anything is computed."""
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
    dask: ClusterName | None = None
    """Cluster whose workers do it; None: this process does."""
    quiet: bool = False
    """Neither the plan nor a bar on standard error."""


class Layout(NamedTuple):
    """How segments are laid down."""

    store: Store
    compressor: Compressor | None


class Target(NamedTuple):
    """One recipe that a run writes."""

    recipe: Recipe
    places: np.ndarray
    """(m,) places among the distinct sequences of those without rows in it, rising: the order of the file."""
    layout: Layout
    elsewhere: np.ndarray
    """(k,) places of those that `--from-cache` has and it lacks; `places` is without them."""


class Plan(NamedTuple):
    """The distinct sequences of the input, and which of them the cache lacks; n of them, in arrays."""

    distinct: Distinct
    targets: tuple[Target, ...]
    """A recipe for each layer asked for, in that order."""
    places: np.ndarray
    """(p,) places of those that any recipe lacks, rising: each is computed once, and stored where it is missing."""

    @property
    def wanted(self) -> tuple[Target, ...]:
        """The recipes that lack anything; the others are not computed."""
        return tuple(target for target in self.targets if len(target.places))

    @property
    def recipe(self) -> Recipe:
        """That of the deepest layer to be computed; all have the way of computing in common."""
        recipes = (target.recipe for target in self.wanted or self.targets)
        return max(recipes, key=lambda recipe: math.inf if recipe.layer is None else int(recipe.layer))

    @property
    def elsewhere(self) -> np.ndarray:
        """Places of those that a recipe lacks and `--from-cache` has of it, and that are not computed, rising."""
        if not self.targets:
            return self.places[:0]
        held = np.unique(np.concatenate([target.elsewhere for target in self.targets]))
        return np.setdiff1d(held, self.places, assume_unique=True)

    @property
    def pending(self) -> RecordList:
        """The p records that are to be computed."""
        return self.distinct.records.take(self.places)

    @property
    def lengths(self) -> np.ndarray:
        """(p,) residues, nucleotides or atoms of each of them."""
        return np.asarray(self.distinct.lengths[self.places])

    @property
    def rows(self) -> np.ndarray:
        """(p,) rows that each of them has: fewer than it is long where the recipe truncates."""
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
        return sum(self._bytes(target, segment_bytes) for target in self.wanted) + records * _TABLE_BYTES

    def _bytes(self, target: Target, segment_bytes: int) -> int:
        """Of one recipe's segments."""
        recipe, lengths = target.recipe, self.distinct.lengths[target.places]
        rows = int(stored_rows(recipe, lengths).sum()) * recipe.dim * np.dtype(recipe.dtype).itemsize
        return rows + len(lengths) * _RECORD_BYTES + -(-rows // segment_bytes) * _SEGMENT_FILES


def default_cache(input_file: Path) -> Path:
    """The input's folder if that is a dataset, else `cache/<stem of the input>`.

    Raises:
        InputError: that would be a folder of code, as `cache/store` is in a checkout.
    """
    if (input_file.parent / "dataset.toml").exists():
        return input_file.parent
    stem = input_file.name.removesuffix(".gz").rsplit(".", 1)[0]
    folder = Path("cache") / (stem or "embeddings")
    if (problem := code_problem(folder)) is not None:
        raise InputError(f"{problem}; the cache of {input_file} would be there, name another by --cache")
    return folder


def existing_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def asked_layout(options: RunOptions) -> Layout:
    """The layout that flags ask for; a Zarr group, uncompressed, where they say nothing."""
    return Layout(options.store or "zarr", None if options.compressor == "none" else options.compressor)


def asked_records(options: RunOptions) -> Records:
    """The records that a run is about: those of the input, or of one shard of it; what was changed in them is said.

    Raises:
        InputError: as `read_records`.
    """
    records = read_records(options.input, options.modality, options.on_bad, options.reading)
    say_notes(options.input, records.notes, records.skipped, "records")
    if options.shard is None:
        return records
    found = of_shard(records, options.shard)
    note(
        f"note: {options.input}: shard {options.shard.number} of {options.shard.total} has {len(found.records):,} of "
        f"{len(records.records):,} records"
    )
    return found


def make_plan(options: RunOptions, recipes: Sequence[Recipe], records: Records) -> Plan:
    """Which distinct sequences each recipe lacks, in file order, and how they are to be laid down."""
    distinct = records.distinct()
    targets = tuple(_target(options, recipe, distinct) for recipe in recipes)
    return Plan(distinct, targets, np.unique(np.concatenate([target.places for target in targets])))


def _target(options: RunOptions, recipe: Recipe, distinct: Distinct) -> Target:
    reader, layout = CacheReader(options.cache_dir, recipe), asked_layout(options)
    held = reader.layouts
    if options.store is None and options.compressor is None and len(held) == 1:
        layout = Layout(*held.pop())
    places = np.flatnonzero(reader.absent(distinct.digests))
    if options.from_cache is None:
        return Target(recipe, places, layout, places[:0])
    nowhere = CacheReader(options.from_cache, recipe).absent(distinct.digests[places])
    return Target(recipe, places[nowhere], layout, places[~nowhere])
