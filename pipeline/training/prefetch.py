"""The next batch is read and packed while this one is computed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
DEPTH = 2
"""Results made in advance."""


@dataclass
class WaitTime:
    """How long a consumer stood still because nothing was ready."""

    waited: float = 0.0
    """Seconds."""
    total: float = 0.0
    """Seconds from the first request to the last result used."""

    @property
    def share(self) -> float:
        """Part of the time that was spent waiting; 0 before anything was measured."""
        return self.waited / self.total if self.total else 0.0


def prefetched(make: Callable[[T], R], items: Iterable[T], waiting: WaitTime) -> Iterator[R]:
    """`make` of each item, in order, made up to `DEPTH` in advance by one other thread.

    What `make` raises is raised here, at its item.  `make` never runs twice at once.
    """
    began = time.perf_counter()
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetched") as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > DEPTH:
                    yield _next(pending, waiting)
            while pending:
                yield _next(pending, waiting)
        finally:
            for future in pending:
                future.cancel()
            waiting.total += time.perf_counter() - began


def _next(pending: deque[Future[R]], waiting: WaitTime) -> R:
    began = time.perf_counter()
    try:
        return pending.popleft().result()
    finally:
        waiting.waited += time.perf_counter() - began
