"""`gc`: what no reader will look at again is removed: superseded segments, and what dead writers left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import list_folder
from crossllm.cache.maintenance.damage import Listing, read_commits
from crossllm.cache.maintenance.inspection import require_cache
from crossllm.cache.maintenance.integrity import bad_records
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.store import writer_marker
from crossllm.cache.store.commit import HEX32, commit_paths, is_committed, live_commits, unlink_commits
from crossllm.cache.store.recipe import read_recipe, recipe_folders
from crossllm.cache.store.segment import Segment

_MARKER_START, _MARKER_END = ".writer-", ".json"


class Garbage(NamedTuple):
    """What `gc` removed, or with `dry_run` would remove."""

    superseded: list[Path]
    """Segments that others replaced."""
    abandoned: list[Path]
    """Segments without a commit record that nobody is writing."""
    temporary: list[Path]
    """Temporary files a week old, and markers of dead writers."""
    bytes: int
    kept: list[Path]
    """Segments without a commit record that somebody may be writing, on this host or another."""
    unsure: list[Path]
    """Recipes where superseded segments stay, because what replaced them is damaged; `repair` comes first."""


class _Recipe(NamedTuple):
    """What is to go in one recipe's folder."""

    folder: Path
    withdrawn: list[str]
    """Superseded segments whose commit record is still there."""
    superseded: list[Path]
    abandoned: list[Path]
    markers: list[Path]
    kept: list[Path]
    unsure: bool


def collect_garbage(cache_dir: Path, *, dry_run: bool = False) -> Garbage:
    """Remove superseded segments and what dead writers left; whatever a live writer may be writing stays.

    A segment's commit record goes first and durably, its folder after it: killed at any instant, nothing that a
    commit record names is missing, and the next run goes on.

    Raises:
        InputError: `cache_dir` is no cache, or of a later format; nothing was removed.
    """
    require_cache(cache_dir)
    folders = [folder for modality in MODALITIES for folder in recipe_folders(cache_dir, modality)]
    plans = [_plan(folder) for folder in folders]
    temporary = [path for folder in _homes(cache_dir, folders) for path in _old_temporaries(folder)]
    found = Garbage(
        [path for plan in plans for path in plan.superseded],
        [path for plan in plans for path in plan.abandoned],
        [*temporary, *(path for plan in plans for path in plan.markers)],
        0,
        [path for plan in plans for path in plan.kept],
        [plan.folder for plan in plans if plan.unsure],
    )
    size = sum(map(_size, (*found.superseded, *found.abandoned, *found.temporary)))
    if not dry_run:
        for plan in plans:
            _sweep(plan)
        for path in temporary:
            _remove(path)
    return found._replace(bytes=size)


def _plan(folder: Path) -> _Recipe:
    """What is to go.  The order matters: folders, then who writes them, then commit records.

    A folder seen without a commit record after its writer was seen dead, or its marker gone, will never have one.
    """
    before = {path.stem for path in commit_paths(folder)}
    names = [path.name for path in list_folder(folder / "segments")]
    segments = {name for name in names if HEX32.fullmatch(name)}
    marked = {name[len(_MARKER_START) : -len(_MARKER_END)] for name in names if name.startswith(_MARKER_START)}
    marked = {name for name in marked if HEX32.fullmatch(name)}
    busy = {name for name in (segments - before) | marked if writer_marker.may_be_written(folder, name)}
    listing = read_commits(folder)
    listing.refuse_newer()
    committed = {commit.segment for commit in listing.commits} | {found.segment for found in listing.damage}
    gone, unsure = _superseded(folder, listing)
    uncommitted = segments - committed - gone
    place = folder / "segments"
    return _Recipe(
        folder,
        sorted(gone & committed),
        [place / name for name in sorted(gone & segments)],
        [place / name for name in sorted(uncommitted - busy)],
        [writer_marker.marker_path(folder, name) for name in sorted(marked - busy)],
        [place / name for name in sorted(uncommitted & busy)],
        unsure,
    )


def _superseded(folder: Path, listing: Listing) -> tuple[set[str], bool]:
    """Segments that are replaced by one whose every record is sound, and whether there is one that is not.

    All its rows are read, once: until their sources go, `repair` can take what is damaged from them.
    """
    gone: set[str] = set()
    unsure = False
    for commit in live_commits(listing.commits):
        if commit.supersedes:
            try:
                recipe = read_recipe(folder)
                first = any(is_committed(folder, name) for name in commit.supersedes)
                if first and bad_records(Segment(folder, recipe, commit, io="pread"), recipe):
                    unsure = True
                else:
                    gone.update(commit.supersedes)
            except (CacheCorrupt, OSError):
                unsure = True
    return gone, unsure


def _sweep(plan: _Recipe) -> None:
    if plan.superseded or plan.withdrawn:
        unlink_commits(plan.folder, plan.withdrawn)
    for path in (*plan.superseded, *plan.abandoned, *plan.markers):
        _remove(path)


def _homes(cache_dir: Path, folders: list[Path]) -> list[Path]:
    """The folders in which this project makes temporary files."""
    inner = [
        place for folder in folders for place in (folder, folder / "commits", folder / "segments", folder / "index")
    ]
    return [cache_dir, cache_dir / "records", *inner]


def _old_temporaries(folder: Path) -> list[Path]:
    """Temporary files a week old: their names do not say who wrote them."""
    return [path for path in list_folder(folder) if path.name.startswith(".tmp-") and not writer_marker.is_young(path)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        fsio.remove_tree(path)
    else:
        fsio.remove_file(path)


def _size(path: Path) -> int:
    try:
        found = os.lstat(path)
        inner = list(os.scandir(path)) if path.is_dir() and not path.is_symlink() else []
    except FileNotFoundError:
        return 0
    return found.st_size * (not inner) + sum(_size(Path(entry.path)) for entry in inner)
