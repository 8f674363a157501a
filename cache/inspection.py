"""What a cache holds (`info`) and whether it is whole (`verify`)."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cache import fsio
from cache.commit import commit_paths, live_commits, read_commit
from cache.errors import CacheCorrupt, InputError
from cache.idtable import read_table
from cache.reader import CacheReader
from cache.recipe import list_recipes, orphaned_folders, read_recipe, recipe_folders
from cache.segment import Segment

ALL_MODALITIES = ("rna", "protein", "molecule")


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


class Report(NamedTuple):
    """What `verify` found."""

    damage: list[str]
    """One line for each damaged file or record; empty for a clean cache."""
    segments: int
    records: int
    leftovers: list[Path]
    """Segment folders without a commit record: an interrupted or running writer's, no damage."""


def require_cache(cache_dir: Path) -> None:
    """Raise `InputError` where there is no cache at `cache_dir`."""
    if not any((cache_dir / name).exists() for name in ("embeddings", "records", "dataset.toml")):
        raise InputError(f"{cache_dir}: no cache here (no embeddings, records or dataset.toml); check --cache")


def info(cache_dir: Path) -> list[RecipeInfo]:
    """The recipes of a cache with their sizes.

    Raises:
        InputError: `cache_dir` is no cache.
        CacheCorrupt: a commit record or small file is damaged.
    """
    require_cache(cache_dir)
    found = []
    for modality in ALL_MODALITIES:
        for recipe in list_recipes(cache_dir, modality):
            reader = CacheReader(cache_dir, recipe)
            stored = sum(f.bytes for s in reader.segments for f in s.commit.files.values())
            found.append(
                RecipeInfo(
                    modality,
                    recipe.encoder,
                    recipe.digest,
                    len(reader),
                    reader.residues,
                    stored,
                    len(reader.segments),
                    recipe.dtype,
                )
            )
    return found


def verify(cache_dir: Path, *, data: bool) -> Report:
    """Check every commit record, every small file and every size; with `data`, every byte of every record.

    Raises:
        InputError: `cache_dir` is no cache.
    """
    require_cache(cache_dir)
    report = Report([], 0, 0, [])
    with _collecting(report.damage):
        _verify_dataset(cache_dir)
    for modality in ALL_MODALITIES:
        with _collecting(report.damage):
            read_table(cache_dir, modality)
        for folder in recipe_folders(cache_dir, modality):
            report = _verify_recipe(folder, report, data=data)
        lost = orphaned_folders(cache_dir, modality)
        report.damage.extend(f"{folder}: has commit records but no recipe.json" for folder in lost)
    return report


def _verify_dataset(cache_dir: Path) -> None:
    """The files that `dataset.toml` names are as they were imported."""
    path = cache_dir / "dataset.toml"
    if not path.exists():
        return
    try:
        sums = tomllib.loads(fsio.read_bytes(path, 1 << 20).decode())["sha256"]
        changed = [name for name, digest in sums.items() if _sha256(cache_dir / Path(name).name) != digest]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheCorrupt(f"{path}: {error!r}; import the dataset again") from None
    if changed:
        raise CacheCorrupt(f"{cache_dir / name}: is not as it was imported" for name in changed)


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_recipe(folder: Path, report: Report, *, data: bool) -> Report:
    """`report` with what was found in one recipe's folder added."""
    damage, segments, records, leftovers = report
    commits = []
    for path in commit_paths(folder):
        with _collecting(damage):
            commits.append(read_commit(path))
    live = live_commits(commits)
    with _collecting(damage):
        recipe = read_recipe(folder)
        for commit in live:
            with _collecting(damage):
                segment = Segment(folder, recipe, commit)
                _ = segment.source  # proves the shard's index
                if data:
                    damage += segment.check_all()
    named = {path.stem for path in commit_paths(folder)}
    unnamed = [p for p in sorted((folder / "segments").glob("*")) if p.is_dir() and p.name not in named]
    return Report(damage, segments + len(live), records + sum(c.records for c in live), leftovers + unnamed)


@contextmanager
def _collecting(damage: list[str]) -> Iterator[None]:
    """Turn damage met inside into lines of `damage`, so that one bad file does not hide the next."""
    try:
        yield
    except (CacheCorrupt, InputError) as error:  # InputError: a newer format
        damage.extend(error.lines)
    except OSError as error:
        damage.append(f"{error.filename}: {error.strerror}")
