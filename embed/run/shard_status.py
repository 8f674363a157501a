"""How far the shards of a file are embedded, as the cache says: `crossllm cache status`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from crossllm.cache.console.messages import say_notes
from crossllm.cache.errors import InputError
from crossllm.cache.files.permissions import list_folder
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.records.modality import MODALITIES, OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.shards import numbers
from crossllm.cache.remote.opening import shown
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import Recipe, choose_recipe, list_recipes
from crossllm.embed.run.plan import default_cache

_FAILED_LIST = re.compile(r"failed(\.[0-9]+-of-[0-9]+)?\.tsv")
_MOST_BYTES = 1 << 32


@dataclass(frozen=True)
class StatusOptions:
    """What `crossllm cache status` was asked for."""

    input: Path
    num_shards: int
    cache_dir: Path | None = None
    """None: where `embed run` puts the rows of this input."""
    modality: str | None = None
    """None: the only one that the cache has rows of."""
    recipe: str | None = None
    on_bad: OnBad = "error"
    reading: ReadOptions = ReadOptions()


class ShardState(NamedTuple):
    """How far one shard is embedded; it counts distinct sequences."""

    shard: int
    """Counted from 0."""
    sequences: int
    residues: int
    missing: int
    """Sequences without rows, the failed ones too."""
    failed: int
    """Sequences without rows that a run has listed as failed."""

    @property
    def state(self) -> Literal["complete", "partial", "failed", "not begun"]:
        """`failed`: all that it lacks has been tried; `partial`: a run was cut off, or is at work."""
        if not self.missing:
            return "complete"
        if self.failed == self.missing:
            return "failed"
        return "not begun" if self.missing == self.sequences else "partial"


class ShardStatus(NamedTuple):
    """How far all shards are."""

    cache: str
    modality: str
    recipe: str | None
    """Folder name; None where the cache has no rows of the modality."""
    shards: tuple[ShardState, ...]
    failed_lists: tuple[str, ...]
    """Files that say why sequences failed, those that lack rows still."""

    @property
    def rest(self) -> list[int]:
        """Shards that a run would do more of: the partial ones and those not begun."""
        return [shard.shard for shard in self.shards if shard.state in ("partial", "not begun")]


def shard_status(options: StatusOptions) -> ShardStatus:
    """Compare a file's shards with what a cache holds; nothing is written.

    Raises:
        InputError: bad records, or no or several recipes and none named.
        CacheCorrupt: a segment is damaged, so that nobody can say what is missing.
    """
    cache_dir = options.cache_dir or default_cache(options.input)
    modality = options.modality or _only_modality(cache_dir)
    options.reading.refuse_unused([modality])
    records = read_records(options.input, modality, options.on_bad, options.reading)
    say_notes(options.input, records.notes, records.skipped, "records")
    distinct = records.distinct()
    recipe = _recipe(cache_dir, modality, options.recipe)
    absent, failed = np.ones(len(distinct), bool), np.zeros(len(distinct), bool)
    lists: dict[Path, list[bytes]] = {}
    if recipe is not None:
        absent = CacheReader(cache_dir, recipe).absent(distinct.digests)
        lists = _failed_lists(recipe.folder(cache_dir))
    telling = []
    for path, keys in lists.items():
        places = np.array([place for key in keys if (place := distinct.find(key)) >= 0], np.int64)
        if absent[places].any():
            failed[places] = True
            telling.append(str(path))
    shard_of, count = numbers(distinct, options.num_shards), options.num_shards
    columns = [
        np.bincount(shard_of, weights, minlength=count).astype(np.int64).tolist()
        for weights in (np.ones(len(distinct)), distinct.lengths, absent, absent & failed)
    ]
    shards = tuple(ShardState(number, *counts) for number, counts in enumerate(zip(*columns, strict=True)))
    folder = None if recipe is None else recipe.folder_name
    return ShardStatus(shown(cache_dir), modality, folder, shards, tuple(telling))


def _only_modality(cache_dir: Path) -> str:
    held = [modality for modality in MODALITIES if list_recipes(cache_dir, modality)]
    if len(held) != 1:
        found = f"rows of {' and '.join(held)}" if held else "no rows"
        raise InputError(f"{cache_dir}: holds {found}; say by --modality what the input is")
    return held[0]


def _recipe(cache_dir: Path, modality: str, named: str | None) -> Recipe | None:
    """The recipe to look at; None where there is none yet, and none was named."""
    if named is None and not list_recipes(cache_dir, modality):
        return None
    return choose_recipe(cache_dir, modality, named)


def _failed_lists(folder: Path) -> dict[Path, list[bytes]]:
    """The keys that each list of failures in a recipe's folder names; of a damaged line none."""
    found = {}
    for path in list_folder(folder):
        if _FAILED_LIST.fullmatch(path.name):
            lines = read_bytes(path, _MOST_BYTES).decode(errors="replace").splitlines()[1:]
            keys = [line.split("\t")[1] for line in lines if line.count("\t") >= 3]
            found[path] = [bytes.fromhex(key) for key in keys if re.fullmatch("[0-9a-f]{64}", key)]
    return found
