"""A table as the template takes it."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """Plain text in rows; the first column names the row.  A line break in a cell sets what follows small."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: tuple[int, ...] = ()
    """Rows that stand out."""
    links: tuple[str, ...] = ()
    """Where the name of each row leads; none: nowhere."""
    words: tuple[int, ...] = ()
    """Columns of words, set to the left; numbers are set to the right."""
