"""What a training run reads: the dataset, one recipe a side, the token window and the folds, all checked together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import note, say_notes
from crossllm.cache.errors import CacheCorrupt, InputError, one_line, printable
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import UNITS, OnBad
from crossllm.cache.store.joined_reader import JOIN, JoinedReader, OneRecipe, open_rows, parts_of
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import list_recipes
from crossllm.cache.store.recipe_command import command_for
from crossllm.cache.store.row_source import IO
from crossllm.model.ensemble import Ensemble
from crossllm.model.tokens import auto_window, parse_tokens, tokens_name
from crossllm.pipeline.data.dataset import Dataset, default_run, load_dataset
from crossllm.pipeline.ranks.ranks import ALONE, Ranks
from crossllm.pipeline.splits.choosing import choose_folds
from crossllm.pipeline.splits.folds import Folds
from crossllm.pipeline.training.config import TrainConfig

RowReader = CacheReader | JoinedReader
"""Of one recipe, or of several joined."""
ALIKE = 32
"""Sequences of a side that are looked at to see whether all embeddings are the same."""
MAX_GROUPS = 50
"""Distinct values a column of `--by` may have."""


@dataclass(frozen=True)
class TrainOptions:
    """What `train` was asked for, beside what changes a number."""

    cache_dir: Path
    config: TrainConfig = field(default_factory=TrainConfig)
    recipe_a: str | None = None
    recipe_b: str | None = None
    """Encoder name, folder name or digest; several with + between them are joined; None: the only one."""
    out: Path | None = None
    """The run's folder; None: `runs/<name of the dataset>` in the cache."""
    by: str | None = None
    """Column of the pairs table whose values are scored one by one as well."""
    split_file: Path | None = None
    """Of the split `file`; None: the run's own `splits.tsv`, when it is gone on with."""
    baselines: str | None = "fast"
    """Names with commas between them, all, fast or none; None: all, or those that a finished run has.  The command
    `train` asks for all; they are no part of the run's identity."""
    final: bool = False
    """Fit one model on all pairs as well, after the folds; no part of the run's identity."""
    device: str = "cpu"
    on_bad: OnBad = "error"
    resume: bool = False
    io: IO = "mmap"
    """How rows are read: as views of mapped files, or by pread, which outlives a file that shrinks meanwhile."""
    quiet: bool = False
    threads: int | None = None
    """Of the processes that fit the folds; None: this process fits them, with its own."""
    ranks: Ranks = ALONE
    """The processes that train together, of which this is the first."""


class Inputs(NamedTuple):
    """Everything a fold needs, opened."""

    dataset: Dataset
    readers: tuple[RowReader, RowReader]
    window: int
    folds: Folds
    whole: Dataset
    """With the pairs that the split leaves out: similarities are of all its sequences, whatever the split."""


def open_inputs(options: TrainOptions) -> Inputs:
    """Dataset, the recipe of each side, token window and folds.

    Raises:
        InputError: a pair has no embedding (with `on_bad="error"`), or there is nothing to train on.
        CacheCorrupt: a sequence has other rows than its length and its recipe ask for.
    """
    dataset, found = load_dataset(options.cache_dir, options.on_bad)
    say_notes(options.cache_dir / "pairs.tsv", found.notes, found.skipped, "rows")
    _check_groups(dataset, options.by)
    reader_a, reader_b = (
        _open(options, modality, named)
        for modality, named in ((dataset.modality_a, options.recipe_a), (dataset.modality_b, options.recipe_b))
    )
    dataset = _embedded_only(options, dataset, reader_a, reader_b)
    held_split = (options.out or default_run(options.cache_dir)) / "splits.tsv"
    split_file = options.split_file or (held_split if options.resume and held_split.exists() else None)
    split = options.config.split_options()
    whole = dataset
    dataset, folds = choose_folds(whole, split, options.cache_dir, split_file, quiet=options.quiet)
    for reader, distinct in ((reader_a, set(dataset.a_keys)), (reader_b, set(dataset.b_keys))):
        for part in parts_of(reader):
            if isinstance(part, CacheReader):
                part.fetch(list(distinct))  # from an object store, in few requests
            _check_rows(options.cache_dir, part, distinct)
    _say_alike("a", reader_a, dataset.a_keys)
    _say_alike("b", reader_b, dataset.b_keys)
    try:
        window = parse_tokens(options.config.tokens)
    except ValueError as error:
        raise InputError(f"--tokens: {one_line(error, 200)}") from None
    if window is None:
        keys = zip(dataset.a_keys, dataset.b_keys, strict=True)
        window = auto_window([(reader_a.length(a), reader_b.length(b)) for a, b in keys])
        note(f"note: --tokens auto: {tokens_name(window)}")
    return Inputs(dataset, (reader_a, reader_b), window, folds, whole)


def parameter_counts(inputs: Inputs, config: TrainConfig) -> dict[str, int]:
    """Part of the model → its parameters."""
    a, b = (reader.recipe.dim for reader in inputs.readers)
    return Ensemble(config.ensemble, a, b, config.model).parameter_counts()


def _open(options: TrainOptions, modality: str, named: str | None) -> RowReader:
    """The rows of a side; of a run that is gone on with, of the recipes that it was trained on.

    Raises:
        InputError: there is no recipe, or several and none is named.
    """
    for name in (named or "").split(JOIN) if options.resume else ():
        if len(name) == 64 and all(recipe.digest != name for recipe in list_recipes(options.cache_dir, modality)):
            raise InputError(
                f"--resume: the run was trained on the {modality} recipe {name[:16]}, which {options.cache_dir} holds "
                "no more; embed again with the settings that it was made with, or start another run by --out"
            )
    return open_rows(options.cache_dir, modality, named, options.io)


def _embedded_only(options: TrainOptions, dataset: Dataset, a: RowReader, b: RowReader) -> Dataset:
    """The dataset without the pairs that lack an embedding; an error unless `on_bad` is skip."""
    missing = {
        id_: part.recipe
        for reader, ids, keys in ((a, dataset.a_ids, dataset.a_keys), (b, dataset.b_ids, dataset.b_keys))
        for part in parts_of(reader)
        for id_, key in zip(ids, keys, strict=True)
        if key not in part
    }
    if not missing:
        return dataset
    if options.on_bad == "error":
        raise InputError(
            f"{options.cache_dir}: {recipe.modality} '{printable(id_)}' stands in a pair but has no rows in "
            f"{recipe.folder_name}; run `{command_for(options.cache_dir, recipe)}`, or leave such pairs out with "
            "--on-bad skip"
            for id_, recipe in missing.items()
        )
    keep = [n for n, (x, y) in enumerate(zip(dataset.a_keys, dataset.b_keys, strict=True)) if x in a and y in b]
    note(f"note: {len(dataset.labels) - len(keep)} pairs without an embedding left out (--on-bad skip)")
    if not keep:
        raise InputError(f"{options.cache_dir}: no pair has embeddings on both sides; run `embed run` first")

    return dataset.subset(keep)


def _check_rows(cache_dir: Path, reader: OneRecipe, keys: set[bytes]) -> None:
    """Raise `CacheCorrupt` for rows that are not one a residue, or the first N under truncate:N; say what is cut."""
    recipe = reader.recipe
    unit = UNITS[recipe.modality]
    lengths = {entry.key: entry.length for entry in read_table(cache_dir, recipe.modality).values()}
    wrong = [key for key in keys if reader.length(key) != recipe.rows_of(lengths[key])]
    if wrong:
        raise CacheCorrupt(
            f"{reader.folder}: record {key.hex()} has {reader.length(key)} rows, its sequence has {lengths[key]} "
            f"{unit} and the recipe's long is {recipe.long}; whatever wrote it is wrong: embed into another --cache"
            for key in wrong
        )
    if recipe.pooled:
        note(f"note: {recipe.folder_name}: one vector a sequence, pooled where it was made")
    elif cut := sum(recipe.rows_of(lengths[key]) < lengths[key] for key in keys):
        note(f"note: {recipe.folder_name}: {cut} of {len(keys)} sequences are cut, {recipe.long}")


def _say_alike(side: str, reader: RowReader, keys: Iterable[bytes]) -> None:
    """Say that all sequences of a side have the same embedding: nothing can be learnt from it, and AUROC is 0.5."""
    means = [reader[key].mean(axis=0, dtype=np.float64) for key in list(dict.fromkeys(keys))[:ALIKE]]
    if len(means) > 1 and all(np.array_equal(means[0], mean) for mean in means[1:]):
        note(
            f"note: side {side}: the {len(means)} {reader.recipe.modality} sequences looked at have all the same mean "
            f"embedding in {reader.recipe.folder_name}; what made these rows did not read the sequences"
        )


def _check_groups(dataset: Dataset, column: str | None) -> None:
    """Raise `InputError` for a `--by` column that is not there or names no groups."""
    if column is None:
        return
    if column not in dataset.extra:
        held = ", ".join(dataset.extra) or "none"
        raise InputError(f"--by: no column '{printable(column)}' in pairs.tsv; further columns there: {held}")
    if (count := len(set(dataset.extra[column]))) > MAX_GROUPS:
        raise InputError(f"--by {printable(column)}: {count} distinct values; at most {MAX_GROUPS} groups are shown")
