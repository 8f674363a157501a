"""What a cache holds (`info`) and whether it is whole (`verify`)."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.maintenance.damage import Damage, names_in, read_commits, recipe_name
from crossllm.cache.maintenance.integrity import Subset, check_segment
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store.commit import HEX32, commit_paths, live_commits
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import list_recipes, orphaned_folders, read_recipe, recipe_folders
from crossllm.cache.store.store_folder import embeddings_folder


class RecipeInfo(NamedTuple):
    """One line of `crossllm cache info`."""

    modality: str
    encoder: str
    digest: str
    sequences: int
    """Distinct keys."""
    residues: int
    """Rows of the distinct keys."""
    bytes: int
    """On disk, all committed files."""
    segments: int
    dtype: str
    compute: str
    layer: str
    """`last`, or a number."""
    long: str
    options: dict[str, str]
    weights: str | None
    """Their SHA-256."""


class Report(NamedTuple):
    """What `verify` found."""

    damage: list[Damage]
    """Every damaged record and file; empty for a clean cache."""
    segments: int
    records: int
    leftovers: list[Path]
    """Segment folders without a commit record: an interrupted or running writer's, no damage."""


def require_cache(cache_dir: Path) -> None:
    """Raise `InputError` where there is no cache at `cache_dir`."""
    if not any((cache_dir / name).exists() for name in ("embeddings", "records", "dataset.toml")):
        raise InputError(f"{cache_dir}: no cache here (no embeddings, records or dataset.toml); check the path")


def info(cache_dir: Path) -> list[RecipeInfo]:
    """The recipes of a cache with their sizes.

    Raises:
        InputError: `cache_dir` is no cache.
        CacheCorrupt: a commit record or small file is damaged.
    """
    require_cache(cache_dir)
    found = []
    for modality in MODALITIES:
        for recipe in list_recipes(cache_dir, modality):
            reader = CacheReader(cache_dir, recipe)
            found.append(
                RecipeInfo(
                    modality,
                    recipe.encoder,
                    recipe.digest,
                    len(reader),
                    reader.residues,
                    reader.stored_bytes,
                    len(reader.segments),
                    recipe.dtype,
                    recipe.compute,
                    recipe.layer or "last",
                    recipe.long,
                    recipe.options,
                    recipe.weights,
                )
            )
    return found


def verify(cache_dir: Path, *, data: bool, subset: Subset | None = None, quiet: bool = True) -> Report:
    """Check every commit record, every small file and every size; with `data`, every byte of every record.

    Args:
        cache_dir: the cache.
        data: whether to read the rows.
        subset: which part of the records to read, all if None.
        quiet: no progress bar.

    Raises:
        InputError: `cache_dir` is no cache.
    """
    require_cache(cache_dir)
    damage = [*_dataset_damage(cache_dir), *_table_damage(cache_dir)]
    names = names_in(cache_dir)
    folders: list[Path] = []
    for modality in MODALITIES:
        try:
            folders += recipe_folders(cache_dir, modality)
        except CacheCorrupt as error:
            damage.append(Damage("recipe", embeddings_folder(cache_dir) / modality, str(error)))
    live = []
    for folder in folders:
        try:
            listing = read_commits(folder)
            damage += listing.damage
            recipe = read_recipe(folder)
            live += [(folder, recipe, commit) for commit in live_commits(listing.commits)]
        except (CacheCorrupt, InputError) as error:
            damage.append(_recipe_damage(folder, str(error), error))
    for modality in MODALITIES:
        for folder in orphaned_folders(cache_dir, modality):
            damage.append(_recipe_damage(folder, f"{folder}: has commit records but no recipe.json"))
    parts = subset.parts if subset else 1
    total = sum(commit.bytes for _, _, commit in live) * (1 if subset else 2)
    with byte_progress(total // parts if data else 0, "verify", quiet or not data) as seen:
        for folder, recipe, commit in live:
            damage += check_segment(folder, recipe, commit, data=data, subset=subset, names=names, seen=seen)
    leftovers = [path for folder in folders for path in uncommitted(folder)]
    return Report(damage, len(live), sum(commit.records for _, _, commit in live), leftovers)


def uncommitted(recipe_dir: Path) -> list[Path]:
    """The segment folders of a recipe that have no commit record, by name."""
    folder = recipe_dir / "segments"
    found = sorted(path for path in folder.glob("*") if HEX32.fullmatch(path.name) and path.is_dir())
    if (mirror := mirror_of(recipe_dir)) is not None:
        found = [folder / name for name in mirror.segment_names(recipe_dir) if HEX32.fullmatch(name)]
    try:
        committed = {path.stem for path in commit_paths(recipe_dir)}
    except CacheCorrupt:  # nobody can say
        return []
    return [path for path in found if path.name not in committed]


def _recipe_damage(folder: Path, what: str, error: Exception | None = None) -> Damage:
    """Damage of a recipe: nothing of it can be read, and no other file of the cache can make it good."""
    fix = f"put back recipe.json from a copy (its SHA-256 begins with {folder.name[-16:]}), or move the folder away"
    if isinstance(error, InputError):
        return Damage("newer", folder / "recipe.json", what, recipe_name(folder))
    try:
        records = sum(commit.records for commit in live_commits(read_commits(folder).commits))
    except CacheCorrupt:  # that is what is said
        return Damage("recipe", folder, what, recipe_name(folder))
    what = f"{what}; {records} records cannot be read: {fix} and embed again"
    return Damage("recipe", folder / "recipe.json", what, recipe_name(folder), unreadable=records)


def _table_damage(cache_dir: Path) -> list[Damage]:
    found = []
    for modality in MODALITIES:
        try:
            read_table(cache_dir, modality)
        except CacheCorrupt as error:
            found += [Damage("records", cache_dir / "records", line) for line in error.lines]
    return found


def _dataset_damage(cache_dir: Path) -> list[Damage]:
    """The files that `dataset.toml` names and that are not as they were imported."""
    path = cache_dir / "dataset.toml"
    if not path.exists():
        return []
    try:
        sums = tomllib.loads(read_bytes(path, 1 << 20).decode())["sha256"]
        files = [cache_dir / Path(name).name for name, digest in sums.items()]
        changed = [file for file in files if _sha256(file) != sums[file.name]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CacheCorrupt) as error:
        return [Damage("dataset", path, f"{path}: {error!r}; import the dataset again")]
    return [Damage("dataset", file, f"{file}: is not as it was imported; import the dataset again") for file in changed]


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
