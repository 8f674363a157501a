"""What a finished run was trained on: its dataset's folder, the recipes there, and the sequences that it has seen."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.errors import CacheCorrupt, InputError, one_line
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.records.id_table import Table, read_table
from crossllm.cache.store.joined_reader import JOIN, JoinedRecipe
from crossllm.cache.store.recipe import Recipe, list_recipes
from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.similarity.rules import Rule
from crossllm.pipeline.splits.split_file import read_split
from crossllm.pipeline.training.run_folder import FINAL
from crossllm.pipeline.training.seed_folders import held_seeds, seed_folder
from crossllm.pipeline.use.trained_run import TrainedRun

_MAX_TOML = 256 << 20


class RunData(NamedTuple):
    """A run's dataset; `a` and `b` are the two sides, in that order."""

    cache_dir: Path
    """The dataset's folder."""
    modalities: tuple[str, str]
    recipes: tuple[Recipe, Recipe]
    tables: tuple[Table, Table]
    """Id → key and length, of the dataset."""
    trained: tuple[frozenset[bytes], frozenset[bytes]]
    """Keys of the sequences that stand in a pair which any fold's model was fitted or chosen on; of a run whose sides
    are of one modality, those of both sides together."""
    pairs: frozenset[tuple[bytes, bytes]]
    """Keys of those pairs; of one modality in ascending order."""
    rules: tuple[Rule, Rule]
    """When a sequence counts as near to another: the run's own settings."""

    @property
    def one_modality(self) -> bool:
        """Whether a partner may stand on either side."""
        return self.modalities[0] == self.modalities[1]

    def has_pair(self, pair: tuple[bytes, bytes]) -> bool:
        """Whether these two sequences stand in one training pair."""
        return _ordered(pair, self.one_modality) in self.pairs


def run_data(run: TrainedRun, folder: Path | None = None) -> RunData:
    """The data of a run.

    Args:
        run: a finished one.
        folder: of its dataset; None: the folder in which the run lies.

    Raises:
        InputError: no dataset is there, or not that of the run, or it holds the rows of the run's recipes no more.
        CacheCorrupt: the dataset or the run's splits are damaged.
    """
    cache_dir = folder or _above(run.folder)
    dataset, _ = load_dataset(cache_dir, "skip")
    modalities = dataset.modality_a, dataset.modality_b
    recipes = tuple(
        _recipe(cache_dir, modality, digest, run) for modality, digest in zip(modalities, run.recipes, strict=True)
    )
    if _held_digest(run) != dataset.digest:
        note(f"note: {cache_dir}: has changed since {run.folder} was trained; its splits.tsv says what it has seen")
    pairs: set[tuple[bytes, bytes]] = set()
    for where in _folders(run.folder):
        split, folds = read_split(where / "splits.tsv", dataset)
        parts = [folds.trainable(n) for n in range(len(folds.names))]
        trained = range(len(split.labels)) if _is_final(run) else np.unique(np.concatenate(parts)).tolist()
        pairs.update(_ordered((split.a_keys[n], split.b_keys[n]), dataset.one_modality) for n in trained)
    seen = [{a for a, _ in pairs}, {b for _, b in pairs}]
    if dataset.one_modality:
        seen = [seen[0] | seen[1]] * 2
    options = run.config.split_options()
    return RunData(
        cache_dir,
        modalities,
        (recipes[0], recipes[1]),
        (read_table(cache_dir, modalities[0]), read_table(cache_dir, modalities[1])),
        (frozenset(seen[0]), frozenset(seen[1])),
        frozenset(pairs),
        (options.rule("a", modalities[0]), options.rule("b", modalities[1])),
    )


def _is_final(run: TrainedRun) -> bool:
    """Whether its model was fitted on all pairs."""
    return run.folds[0].name.rpartition("/")[2] == FINAL


def _ordered(pair: tuple[bytes, bytes], one_modality: bool) -> tuple[bytes, bytes]:
    return (min(pair), max(pair)) if one_modality else pair


def _above(run: Path) -> Path:
    """The dataset's folder that a run lies in."""
    for folder in run.resolve().parents:
        if (folder / "dataset.toml").is_file():
            return folder if run.is_absolute() else _as_given(folder)
    raise InputError(f"{run}: lies in no dataset's folder; name the dataset that it was trained on by --data DIR")


def _as_given(folder: Path) -> Path:
    """Relative to the working folder where it lies in it, as the user wrote the run."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _folders(run: Path) -> list[Path]:
    """The folder of each of a run's seeds."""
    seeds = held_seeds(run)
    return [run] if seeds is None else [seed_folder(run, seed) for seed in seeds]


def _recipe(cache_dir: Path, modality: str, digests: str, run: TrainedRun) -> Recipe:
    """The recipe of a digest; of several with + between them, the recipes joined."""
    held = {recipe.digest: recipe for recipe in list_recipes(cache_dir, modality)}
    asked = digests.split(JOIN)
    if lost := next((digest for digest in asked if digest not in held), None):
        names = ", ".join(recipe.folder_name for recipe in held.values()) or "none"
        raise InputError(
            f"{cache_dir}: holds no {modality} recipe {lost[:16]}, which {run.folder} was trained on; {modality} "
            f"recipes here: {names}; name the run's dataset by --data, or embed it again as it was"
        )
    found = [held[digest] for digest in asked]
    return found[0] if len(found) == 1 else JoinedRecipe.of(found)


def _held_digest(run: TrainedRun) -> str:
    """Digest of the dataset that a run was trained on, as it says."""
    where = _folders(run.folder)[0] / "config.toml"
    try:
        return str(tomllib.loads(read_bytes(where, _MAX_TOML).decode())["dataset"]["digest"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CacheCorrupt(f"{where}: {one_line(error)}; train again") from None
