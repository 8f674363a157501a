"""A bar on standard error for work that takes a while; none where standard error is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from crossllm.cache.errors import printable

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, quiet: bool) -> Iterable[T]:
    """The same items, with a bar while they are worked on."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, total=total, desc=printable(what), unit="seq", disable=hidden(quiet))
    return bar


def hidden(quiet: bool) -> bool | None:
    """What tqdm is told: None shows a bar on terminals only; `2>&-` leaves no standard error to ask."""
    return True if quiet or sys.stderr is None else None


@contextmanager
def residue_progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar over `total` residues, with residues a second and the time left; called like that of `byte_progress`."""
    from tqdm import tqdm

    with tqdm(total=total, desc=printable(what), unit="res", unit_scale=True, disable=hidden(quiet)) as bar:
        yield bar.update


@contextmanager
def byte_progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar over `total` bytes; what it yields is called with the bytes done since the last call."""
    from tqdm import tqdm

    off = hidden(quiet)
    with tqdm(total=total, desc=printable(what), unit="B", unit_scale=True, unit_divisor=1024, disable=off) as bar:
        yield bar.update
