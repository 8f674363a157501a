"""`FetchedRows`: rows of a segment in an object store, fetched by ranges when they are first wanted, then read here."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from threading import RLock
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.remote.held_file import HeldFile
from crossllm.cache.remote.local import LetGo

T = TypeVar("T")
_TRIES = 20
"""How often a file may be evicted while it is wanted: the bound is far too small then."""


class LocalRows(Protocol):
    """What reads rows of the local file; `Rows` of the store."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`."""

    def read_into(self, start: int, out: np.ndarray) -> None:
        """The rows from `start` on, into `out`."""


class Source(NamedTuple):
    """The held file, and what reads rows of it."""

    held: HeldFile
    rows: LocalRows
    places: Callable[[int, int], Sequence[tuple[int, int]]]
    """Rows `start` to `stop` → the ranges of bytes that they need."""
    check: Callable[[int, int], None]
    """Called when those are here, before they are decoded; raises `CacheCorrupt`."""


class FetchedRows:
    """As `Rows` of the store.  Not steady: what is fetched again after an eviction is another file's bytes."""

    steady = False

    def __init__(self, open_held: Callable[[], HeldFile], of: Callable[[HeldFile], Source]) -> None:
        """`of`: what reads a file that was just opened; may raise `LetGo` as well."""
        self._open_held, self._of = open_held, of
        self._lock = RLock()
        self._source: Source | None = None
        self._try(lambda _: None)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`."""

        def ready(source: Source) -> np.ndarray:
            with source.held.in_use():
                source.held.ensure(source.places(start, stop))
                source.check(start, stop)
                return source.rows.read(start, stop)

        return self._healed(start, stop, ready)

    def read_into(self, start: int, out: np.ndarray) -> None:
        """The rows from `start` on, into `out`."""

        def ready(source: Source) -> None:
            with source.held.in_use():
                source.held.ensure(source.places(start, start + len(out)))
                source.check(start, start + len(out))
                source.rows.read_into(start, out)

        self._healed(start, start + len(out), ready)

    def prefetch(self, start: int, stop: int) -> None:
        """Nothing: what gathers many records fetches them together, which one record at a time would undo."""

    def fetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Fetch several spans of rows, in few requests."""
        if spans:
            self._try(lambda source: source.held.ensure([p for a, b in spans for p in source.places(a, b)]))

    def renew(self, start: int, stop: int) -> None:
        """Fetch rows again: what is held here is damaged, or what was fetched."""

        def again(source: Source) -> None:
            places = source.places(start, stop)
            source.held.renew(min(at for at, _ in places), max(end for _, end in places))

        self._try(again)

    def fetch_whole(self) -> None:
        """Fetch the object, all of it."""
        self._try(lambda source: source.held.ensure([(0, source.held.size)]))

    def _healed(self, start: int, stop: int, use: Callable[[Source], T]) -> T:
        """What `use` gives; where the local copy of the rows is damaged, they are fetched once more."""
        try:
            return self._try(use)
        except CacheCorrupt:
            self.renew(start, stop)
            return self._try(use)

    def _try(self, use: Callable[[Source], T]) -> T:
        """What `use` gives of the open file, which is opened again where it was evicted."""
        for _ in range(_TRIES):
            source = None
            try:
                source = self._opened()
                return use(source)
            except (LetGo, CacheCorrupt) as error:
                if isinstance(error, CacheCorrupt) and (source is None or not source.held.removed):
                    raise
                with self._lock:
                    if self._source is source:
                        self._source = None
        raise CacheCorrupt("the local copy is evicted as soon as it is made; raise --cache-bytes")

    def _opened(self) -> Source:
        with self._lock:
            if (source := self._source) is None:
                held = self._open_held()
                try:
                    source = self._of(held)
                except CacheCorrupt:  # of the local copy, perhaps
                    held.forget()
                    source = self._of(held)
                own = weakref.ref(self)  # no circle: descriptors go when the last reader does
                held.when_closed = lambda: _drop(own())
                self._source = source
            return source


def _drop(rows: FetchedRows | None) -> None:
    """Let go of the maps of a file that was closed.  No lock: who closes it may hold any."""
    if rows is not None:
        rows._source = None
