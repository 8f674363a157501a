"""A bar on standard error for work that takes a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, quiet: bool) -> Iterable[T]:
    """The same items, with a bar while they are worked on; none where standard error is no terminal."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, total=total, desc=what, unit="seq", disable=True if quiet else None)
    return bar
