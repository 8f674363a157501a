"""`Mirror`: the folder of this machine that stands for a cache in an object store.

It is laid out as any cache is, so whatever reads a cache reads it by path: small files are copied into it, rows are
fetched by ranges (`rows`).  What is written goes to the store first, and is here afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.cache.remote import local
from crossllm.cache.remote.address import Address
from crossllm.cache.remote.budget import LARGE, budget_of, opened
from crossllm.cache.remote.held_file import HeldFile, mark_whole
from crossllm.cache.remote.objects import Found, Objects

_VERSIONS = ".versions.json"
_DATASET = (".toml", ".tsv", ".fasta", ".smi")
"""Endings of the files of a dataset; other objects beside them are left where they are."""
FRESH_SECONDS = 20.0
"""How old a listing of commits may be; it costs a request for each thousand of them."""
_YOUNG_SECONDS = 60.0
_AT_ONCE = 16
"""Small objects fetched at once."""
_MAX_JSON = 64 << 20
_Sum = tuple[int, int]
"""Bytes and crc32c."""


class Mirror:
    """Of one cache, in one process."""

    def __init__(self, folder: Path, address: Address, bound: int) -> None:
        """`bound`: bytes of rows that are held in the folder beside this one's parent, over all caches there."""
        self.folder, self.address, self.bound = folder, address, bound
        self.objects = Objects(address)
        self._listed: dict[Path, float] = {}
        self._lock = Lock()

    # What is read.

    def refresh(self) -> None:
        """Bring the files of the dataset, the tables of ids, the recipes and key indexes to what the store has now."""
        self.list_anew()
        objects, folders = self.objects.listed("")
        wanted = [one for one in objects if one.name.endswith(_DATASET) and "/" not in one.name]
        if "records" in folders:
            before = time.time()
            self._bring_named("records", self.objects.listed("records")[0], ".tsv", before)
        recipes = []
        if "embeddings" in folders:
            for modality in self.objects.listed("embeddings")[1]:
                recipes += [f"embeddings/{modality}/{name}" for name in self._recipes(modality)]
        for recipe in recipes:
            before = time.time()
            found, inner_folders = self.objects.listed(recipe)
            wanted += [one for one in found if one.name.endswith("/failed.tsv")]
            if "index" in inner_folders or self._has(f"{recipe}/index"):
                self._bring_indexes(f"{recipe}/index", before)
            for inner in ("commits", "segments"):
                local.make_folder(self.folder / recipe / inner)
        self._in_threads([f"{recipe}/recipe.json" for recipe in recipes if not self._has(f"{recipe}/recipe.json")])
        self._bring_changed(wanted)

    def list_anew(self) -> None:
        """Commits are listed again when they are next wanted: others have written."""
        with self._lock:
            self._listed.clear()

    def refresh_commits(self, recipe_dir: Path) -> None:
        """Bring the commit records of a recipe that are new in the store, unless that was done a moment ago."""
        with self._lock:
            now = time.monotonic()
            if now - self._listed.get(recipe_dir, -FRESH_SECONDS) < FRESH_SECONDS:
                return
            self._listed[recipe_dir] = now
            before = time.time()
            name = self._name(recipe_dir / "commits")
            self._bring_named(name, self.objects.listed(name)[0], ".json", before)

    def bring_all(self, recipe_dir: Path, segments: Iterable[tuple[str, Mapping[str, _Sum]]]) -> None:
        """Copy the small files of several segments that are not here, as far as that goes; `bring` says what fails."""
        missing = [
            (f"{self._name(recipe_dir)}/segments/{segment}/{file}", found)
            for segment, files in segments
            for file, found in files.items()
            if file not in LARGE and not (recipe_dir / "segments" / segment / file).exists()
        ]
        self._in_threads([name for name, _ in missing], dict(missing))

    def bring(self, recipe_dir: Path, segment: str, files: Mapping[str, _Sum]) -> None:
        """Copy the small files of a segment that are not here, or are here with other bytes.

        Raises:
            CacheCorrupt: one of them is missing in the store, or has other bytes than its commit record says.
        """
        for file, found in files.items():
            path = recipe_dir / "segments" / segment / file
            if file not in LARGE and not _matches(path, found):
                self._copy_checked(self._name(path), found)

    def held(self, segment: Path, file: str, size: int) -> HeldFile:
        """The rows of a segment, as far as they are here."""
        path = segment / file
        budget = budget_of(self.folder.parent)
        return opened(
            HeldFile(
                self.objects, self._name(path), segment, path, size,
                lambda count: budget.take(count, self.bound, path),
            )
        )  # fmt: skip

    def segment_names(self, recipe_dir: Path) -> list[str]:
        """The segments of a recipe that have any object, committed or not."""
        return self.objects.listed(f"{self._name(recipe_dir)}/segments")[1]

    # What is written.

    def put(self, path: Path, data: bytes) -> None:
        """Make the object of a file that nothing else may stand for: its name holds a digest, or random bits."""
        self.objects.put_new(self._name(path), data)

    def replace(self, path: Path, data: bytes) -> None:
        """Put the object of a file of the dataset, in place of what stands there."""
        self.objects.put(self._name(path), data)
        # A version that the store has not: it is copied next time.
        versions = _versions(self.folder / _VERSIONS) | {self._name(path): ""}
        local.keep(self.folder / _VERSIONS, json.dumps(versions).encode())

    def put_file(self, path: Path) -> None:
        """Make the object of a large file that is here already, under a name of random bits."""
        self.objects.put_file(self._name(path), path)

    def discard(self, path: Path) -> None:
        """Remove the object of a file, if it is there."""
        self.objects.delete([self._name(path)])

    def put_segment(self, recipe_dir: Path, segment: str, files: Mapping[str, _Sum], commit: bytes) -> None:
        """Upload a finished segment, its commit record last: from then on it is in the cache for everyone.

        Where an upload fails nothing is published, and what was uploaded is removed as far as that goes.  Where it is
        the commit record whose fate is not known, the objects stay.
        """
        folder = recipe_dir / "segments" / segment
        names = {file: self._name(folder / file) for file in files}
        try:
            with ThreadPoolExecutor(_AT_ONCE // 2, "upload") as pool:
                for done in [pool.submit(self.objects.put_file, names[file], folder / file) for file in files]:
                    done.result()
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is to be said
                self.objects.delete(names.values())
            raise
        self.objects.put_new(f"{self._name(recipe_dir)}/commits/{segment}.json", commit)
        size = next(found[0] for file, found in files.items() if file in LARGE)
        mark_whole(folder, size)
        budget_of(self.folder.parent).take(size, self.bound, folder / LARGE[0])

    # Names.

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _recipes(self, modality: str) -> list[str]:
        return [name for name in self.objects.listed(f"embeddings/{modality}")[1] if not name.startswith(".")]

    def _bring_changed(self, found: Sequence[Found]) -> None:
        """Files that may change: those whose version is another than that of the copy."""
        held = _versions(self.folder / _VERSIONS)
        now = {one.name: one.version for one in found}
        for name in held.keys() - now.keys():
            local.remove(self.folder / name)
        changed = [name for name, version in now.items() if held.get(name) != version or not self._has(name)]
        # The table of contents last, as where it is written: a folder with one is complete.
        self._in_threads([name for name in changed if name != "dataset.toml"], strict=True)
        self._in_threads([name for name in changed if name == "dataset.toml"], strict=True)
        if held != now:
            local.keep(self.folder / _VERSIONS, json.dumps(now).encode())

    def _bring_named(self, folder: str, found: Sequence[Found], ending: str, listed: float) -> None:
        """Files that never change under a name: those that are not here; what is gone in the store goes here too."""
        local.make_folder(self.folder / folder)
        there = {one.name for one in found if one.name.endswith(ending)}
        self._in_threads(sorted(there - self._kept(folder, there, ending, listed)))

    def _bring_indexes(self, folder: str, listed: float) -> None:
        """The same for key indexes, which are large; a reader does without one that is replaced just now."""
        local.make_folder(self.folder / folder)
        found = {one.name: one for one in self.objects.listed(folder)[0] if one.name.endswith(".idx")}
        for name in found.keys() - self._kept(folder, set(found), ".idx", listed):
            with suppress(FileNotFoundError):
                local.keep(self.folder / name, self.objects.pieces(found[name]))

    def _kept(self, folder: str, there: set[str], ending: str, listed: float) -> set[str]:
        """The files of a folder that are here, without those that are gone in the store."""
        here = {self._name(path): path for path in (self.folder / folder).glob(f"[!.]*{ending}")}
        for name in here.keys() - there:
            # One that is younger than the listing was put there by another process of this machine.
            with suppress(FileNotFoundError):
                if here[name].stat().st_mtime < listed - _YOUNG_SECONDS:
                    local.remove(here[name])
        return set(here)

    def _in_threads(
        self, names: Sequence[str], sums: Mapping[str, _Sum] | None = None, *, strict: bool = False
    ) -> None:
        """Copy objects; one that is gone meanwhile, or damaged, is left out unless `strict`."""
        if not names:
            return

        def copy(name: str) -> None:
            try:
                if sums is None:
                    local.keep(self.folder / name, self.objects.get(name))
                else:
                    self._copy_checked(name, sums[name])
            except (FileNotFoundError, CacheCorrupt):
                if strict:
                    raise

        with ThreadPoolExecutor(min(_AT_ONCE, len(names)), "copy") as pool:
            for _ in pool.map(copy, names):
                pass

    def _copy_checked(self, name: str, expected: _Sum) -> None:
        where = self.objects.url(name)
        for _ in range(2):  # a body may come damaged once
            try:
                data = self.objects.get(name)
            except FileNotFoundError:
                raise CacheCorrupt(f"{where}: missing, though its commit record names it") from None
            if (len(data), fsio.crc32c(data)) == expected:
                local.keep(self.folder / name, data)
                return
        raise CacheCorrupt(f"{where}: does not match the size and crc32c of its commit record")


def _matches(path: Path, expected: _Sum) -> bool:
    try:
        data = read_bytes(path, expected[0])
    except (FileNotFoundError, CacheCorrupt):
        return False
    return (len(data), fsio.crc32c(data)) == expected


def _versions(path: Path) -> dict[str, str]:
    try:
        found = parse_json(read_bytes(path, _MAX_JSON), path)
    except (OSError, CacheCorrupt):
        return {}
    return {name: version for name, version in found.items() if isinstance(version, str)}
