"""`CacheReader`: key → rows[L, D], a view of the mapped file where the rows lie in it as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.index.index_file import MAKE_AGAIN, IndexFile, open_index
from crossllm.cache.index.layout import LAYOUTS
from crossllm.cache.records.keys import ABSENT
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store.commit import Commit, commit_paths, live_commits, read_commit
from crossllm.cache.store.indexed_keys import IndexedKeys, IndexedSegments
from crossllm.cache.store.key_index import KeyIndex
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.row_source import IO
from crossllm.cache.store.segment import Segment

THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Threads of `gather`: memory, not arithmetic, bounds it."""
_INLINE_BYTES = 4 << 20
"""What is gathered without threads: waking them takes some 0.1 ms."""


class Packed(NamedTuple):
    """Rows of several records, one record after the other.  T rows in all, m records."""

    rows: np.ndarray
    """(T, D), in the storage dtype."""
    offsets: np.ndarray
    """(m + 1,) int64: record i has the rows `offsets[i]` to `offsets[i + 1]`."""


class CacheReader:
    """The committed records of one recipe, as they stood when the reader was opened.

    Safe to share between threads, and with DataLoader workers by fork or spawn (a spawned one opens the cache again).
    A segment that is damaged does not hide the others: what they hold can be read, and a key that they lack raises
    `CacheCorrupt` instead of being called absent.

        reader = CacheReader(Path("cache/rpi1460"), choose_recipe(cache_dir, "rna", None))
        rows = reader[key]                          # (L, D) float16, read-only, no copy
        rows, offsets = reader.gather(keys, out)    # (T, D) one after the other in `out`, copied once

    Args:
        io: `mmap`, or `pread`, where a file that shrinks while it is read is an error and not a signal.
        threads: that `gather` copies with.
        use_index: take the key index, where one fits the commit records; without it every segment is opened, which is
            the reference.
    """

    def __init__(
        self, cache_dir: Path, recipe: Recipe, *, io: IO = "mmap", threads: int = THREADS, use_index: bool = True
    ) -> None:
        self.recipe = recipe
        self.folder = recipe.folder(cache_dir)
        self._cache_dir, self._io, self._threads = cache_dir, io, threads
        self._mirror = mirror_of(self.folder)
        self.segments: Sequence[Segment]
        """The segments that can be read; those of the key index are opened when they are asked for."""
        self._index: KeyIndex | IndexedKeys
        self._file: IndexFile | None
        opened, self.damage, self._file = self._open(use_index)
        """One line for each file that keeps a segment from being read."""
        if self._file is None:
            self.segments, self._index = opened, KeyIndex(opened)
        else:
            self.segments = IndexedSegments(self._file.segments.names, self._opened, opened)
            self._index = IndexedKeys(self._file, opened)
        self._moved: CacheReader | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __getitem__(self, key: bytes) -> np.ndarray:
        """Rows of a key, shape (L, D), read-only.

        Raises:
            KeyError: the key is not in the cache.
            CacheCorrupt: the stored bytes do not match their crc32c.
        """
        segment, index = self._held(key)
        try:
            return segment.rows(index)
        except CacheCorrupt:
            if (now := self._listed_again(segment.name)) is None:
                raise
            return now[key]

    def __contains__(self, key: bytes) -> bool:
        return self._present(self._index.find(key) != ABSENT)

    def __len__(self) -> int:
        """Distinct keys; a record that two writers both made counts once."""
        self._present(False)
        return self._index.count

    def __iter__(self) -> Iterator[bytes]:
        """Keys in the order of the segments; a key stored twice comes once."""
        self._present(False)
        return self._index.keys(self.segments)

    def length(self, key: bytes) -> int:
        """Rows of a key, L, without touching them."""
        if not self._present((length := self._index.length(key)) != ABSENT):
            self._held(key)  # raises
        return length

    @property
    def residues(self) -> int:
        """Rows of all distinct keys."""
        self._present(False)
        return self._index.residues

    @property
    def stored_bytes(self) -> int:
        """On disk, all files of the segments."""
        indexed = 0 if self._file is None else int(self._file.segments.sizes.sum())
        return indexed + sum(segment.commit.bytes for segment in self._each_open())

    @property
    def layouts(self) -> set[tuple[Store, Compressor | None]]:
        """How the segments are laid down."""
        indexed = [] if self._file is None else np.unique(self._file.segments.layouts).tolist()
        return {LAYOUTS[number] for number in indexed} | {segment.stored_as for segment in self._each_open()}

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of `keys` that the cache does not hold, in their order."""
        asked = list(keys)
        return [asked[n] for n in np.flatnonzero(self.absent(asked)).tolist()]

    def absent(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """(m,) bool: which of m keys the cache does not hold; the keys as a sequence, or as (m, 32) uint8."""
        absent = self._index.find_many(keys) == ABSENT
        self._present(not absent.any())
        return np.asarray(absent)

    def gather(self, keys: Sequence[bytes], out: np.ndarray | None = None) -> Packed:
        """Rows of many keys, one after the other: each byte copied once, by several threads.

        Args:
            keys: in the order wanted; a key may stand there twice.
            out: (≥ T, D) C-contiguous, in the storage dtype, to copy into; made where it is None.

        Raises:
            KeyError: a key is not in the cache.
            CacheCorrupt: stored bytes do not match their crc32c; what `out` holds then is undefined.
            ValueError: `out` does not fit.
        """
        records = self._index.find_many(keys)
        if (absent := np.flatnonzero(records == ABSENT)).size:
            self._held(keys[absent[0]])  # raises
        places = [self._placed(record, key) for record, key in zip(records.tolist(), keys, strict=True)]
        self._fetch(places)
        offsets = np.cumsum([0, *(int(s.offsets[i + 1] - s.offsets[i]) for s, i in places)])
        rows = self._room(int(offsets[-1]), out)

        stopped = Event()

        def read_part(part: range) -> None:
            for n in part:
                if stopped.is_set():
                    return
                segment, index = places[n]
                target = rows[offsets[n] : offsets[n + 1]]
                try:
                    segment.read_into(index, target)
                except CacheCorrupt:
                    if (now := self._listed_again(segment.name)) is None:
                        raise
                    np.copyto(target, now[keys[n]])

        self._in_threads(read_part, offsets, rows.nbytes, stopped)
        return Packed(rows, offsets)

    def fetch(self, keys: Sequence[bytes]) -> None:
        """Have the rows of keys on this machine where they lie in an object store, as far as its bound goes.

        Rows that are wanted later are fetched with larger requests than one by one.  Keys that are absent are left out.
        """
        if self._mirror is None:
            return
        records = self._index.find_many(list(dict.fromkeys(keys)))
        places = [(self.segments[n], i) for n, i in map(self._index.place, records[records != ABSENT].tolist())]
        row_bytes = self.recipe.dim * np.dtype(self.recipe.dtype).itemsize
        if sum(int(s.offsets[i + 1] - s.offsets[i]) for s, i in places) * row_bytes <= self._mirror.bound // 2:
            self._fetch(places)

    def _fetch(self, places: Sequence[tuple[Segment, int]]) -> None:
        """The same for records, segment by segment."""
        if self._mirror is None:
            return
        wanted: dict[Segment, list[int]] = {}
        for segment, index in places:
            wanted.setdefault(segment, []).append(index)
        for segment, records in wanted.items():
            segment.fetch(sorted(records))

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """Tell the system which keys are wanted next, so that it reads them from the disk meanwhile; only a hint."""
        for key in keys:
            if (record := self._index.find(key)) != ABSENT:
                number, index = self._index.place(record)
                with suppress(CacheCorrupt, OSError):  # whoever reads it is told, or finds it elsewhere
                    self.segments[number].prefetch(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._cache_dir, self.recipe, self._io, self._threads)

    def _open(self, use_index: bool) -> tuple[list[Segment], list[str], IndexFile | None]:
        """The live segments, what is damaged, and the key index of the segments that are not among them.

        Listed again if one went away meanwhile (`gc` after `compact`).
        """
        while True:
            paths, commits, damage = commit_paths(self.folder), list[Commit](), list[str]()
            listed = {path.stem for path in paths}
            file = open_index(self.folder, self.recipe.digest, listed) if use_index else None
            known = set() if file is None else {*file.segments.names, *file.segments.replaced}
            for path in paths:
                if path.stem in known:
                    continue
                try:
                    commits.append(read_commit(path))
                except CacheCorrupt as error:
                    damage += error.lines
                except FileNotFoundError:
                    damage.append(f"{path}: missing")
            if file is not None and not known.isdisjoint(name for one in commits for name in one.supersedes):
                use_index = False  # of what it tells, something was replaced
                continue
            segments = []
            if self._mirror is not None:
                self._mirror.bring_all(self.folder, [(one.segment, one.files) for one in live_commits(commits)])
            for commit in live_commits(commits):
                try:
                    segments.append(Segment(self.folder, self.recipe, commit, self._io))
                except CacheCorrupt as error:
                    damage += error.lines
            if not damage or set(paths) <= set(commit_paths(self.folder)):
                return segments, damage, file

    def _held(self, key: bytes) -> tuple[Segment, int]:
        """Segment of a key, and the record's index in there."""
        record = self._index.find(key)
        if not self._present(record != ABSENT):
            raise KeyError(f"no rows for key {key.hex()} in recipe {self.recipe.folder_name}")
        return self._placed(record, key)

    def _placed(self, record: int, key: bytes) -> tuple[Segment, int]:
        """Segment of a record, and its index in there; one of the key index is opened, and has to hold the key."""
        number, index = self._index.place(record)
        if self._file is None:
            return self.segments[number], index
        try:
            segment = self.segments[number]
        except (CacheCorrupt, FileNotFoundError):
            if (now := self._listed_again(self._file.segments.names[number])) is None:
                raise
            return now._held(key)
        if index >= len(segment.digest) or segment.digest[index].tobytes() != key:
            raise CacheCorrupt(f"{self._file.path}: says that {segment.path} holds {key.hex()}; {MAKE_AGAIN}")
        return segment, index

    def _opened(self, name: str) -> Segment:
        """A segment of the key index."""
        commit = read_commit(self.folder / "commits" / f"{name}.json")
        return Segment(self.folder, self.recipe, commit, self._io)

    def _each_open(self) -> Sequence[Segment]:
        """The segments that no key index stands for."""
        return self.segments.others if isinstance(self.segments, IndexedSegments) else self.segments

    def _present(self, found: bool) -> bool:
        """`found`; but where a segment cannot be read, nobody can say that a key is absent."""
        if not found and self.damage:
            raise CacheCorrupt(self.damage)
        return found

    def _listed_again(self, segment: str) -> CacheReader | None:
        """The cache as it stands now, if this segment was superseded and removed since; None where it is damaged."""
        if segment in {path.stem for path in commit_paths(self.folder)}:
            return None
        if self._moved is None:
            self._moved = _reopened(self._cache_dir, self.recipe, self._io, self._threads)
        return self._moved

    def _room(self, total: int, out: np.ndarray | None) -> np.ndarray:
        shape, dtype = (total, self.recipe.dim), np.dtype(self.recipe.dtype)
        if out is None:
            return np.empty(shape, dtype)
        if out.ndim != 2 or out.shape[1] != shape[1] or len(out) < total or out.dtype != dtype:
            raise ValueError(f"out has shape {out.shape} {out.dtype}, expected at least {shape} {dtype}")
        if not out.flags.c_contiguous:
            raise ValueError("out is not C-contiguous")
        return out[:total]

    def _in_threads(self, work: Callable[[range], None], offsets: np.ndarray, size: int, stopped: Event) -> None:
        """Run `work` on ranges of records of about equal bytes; when this ends, even by an error, no thread writes."""
        count = len(offsets) - 1
        if self._threads == 1 or size < _INLINE_BYTES:
            work(range(count))
            return
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not live on in a forked worker
            self._pool = os.getpid(), ThreadPoolExecutor(self._threads, "gather")
        cuts = np.searchsorted(offsets, np.linspace(0, offsets[-1], self._threads + 1)[1:-1]).tolist()
        parts = [range(start, stop) for start, stop in zip([0, *cuts], [*cuts, count], strict=True)]
        running = [self._pool[1].submit(work, part) for part in parts]
        try:
            for part in as_completed(running):
                part.result()
        finally:
            stopped.set()
            wait(running)


def _reopened(cache_dir: Path, recipe: Recipe, io: IO, threads: int) -> CacheReader:
    return CacheReader(cache_dir, recipe, io=io, threads=threads)
