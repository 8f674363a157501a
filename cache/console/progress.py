"""Progress of work that takes a while, on standard error: a bar on a terminal, a line every half minute elsewhere.

A batch job's log shows that the work goes on, and how long it still takes; a short run writes nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any, TypeVar

from crossllm.cache.console.messages import note, size_in_words
from crossllm.cache.errors import printable

T = TypeVar("T")
EVERY = 30.0
"""Seconds between two lines where standard error is no terminal."""
LONG = 3.0
"""Seconds after which `announced` says what is going on, and the bar of replicates appears."""


def progress(items: Iterable[T], total: int, what: str, quiet: bool) -> Iterable[T]:
    """The same items, with a bar or lines while they are worked on."""
    with _shown(total, what, quiet, "sequences", {"unit": "seq"}) as update:
        for item in items:
            yield item
            update(1)


def bar_class() -> Any:
    """tqdm's; it reads `TQDM_…` variables while it loads, and falls over one that is no number."""
    try:
        from tqdm import tqdm
    except (ValueError, TypeError):
        named = [name for name in os.environ if name.startswith("TQDM_")]
        for name in named:
            del os.environ[name]
        for module in [name for name in sys.modules if name.split(".")[0] == "tqdm"]:
            del sys.modules[module]
        note(f"note: {', '.join(sorted(named))}: not taken, tqdm cannot read one of them")
        from tqdm import tqdm
    return tqdm


def hidden(quiet: bool) -> bool | None:
    """What tqdm is told: None shows a bar on terminals only; `2>&-` leaves no standard error to ask.

    A notebook shows standard error below the cell, and is no terminal.
    """
    if quiet or sys.stderr is None:
        return True
    return False if _in_notebook() else None


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


@contextmanager
def residue_progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """Over `total` residues, with residues a second and the time left; called like that of `byte_progress`."""
    with _shown(total, what, quiet, "residues", {"unit": "res", "unit_scale": True}) as update:
        yield update


@contextmanager
def pair_progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """Over `total` pairs, with pairs a second and the time left; called like that of `byte_progress`."""
    with _shown(total, what, quiet, "pairs", {"unit": "pair", "unit_scale": True}) as update:
        yield update


@contextmanager
def replicate_progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """Over `total` bootstrap replicates; the bar comes after `LONG` seconds.  Called like that of `byte_progress`."""
    with _shown(total, what, quiet, "replicates", {"unit": "rep", "delay": LONG}) as update:
        yield update


@contextmanager
def byte_progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """Over `total` bytes; what it yields is called with the bytes done since the last call."""
    bar = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    with _shown(total, what, quiet, "bytes", bar) as update:
        yield update


@contextmanager
def announced(text: str, quiet: bool) -> Iterator[None]:
    """Say `text` where what is inside takes more than `LONG` seconds: a long silence looks like a hang."""
    timer = Timer(LONG, note, [text])
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Lines:
    """Where standard error is no terminal: a line at most every `EVERY` seconds."""

    def __init__(self, quiet: bool) -> None:
        self._on = not (quiet or sys.stderr is None or sys.stderr.isatty() or _in_notebook())
        self._start = self._said = time.monotonic()

    def tell(self, text: Callable[[], str], share: float, left: str = "{} left") -> None:
        """Say `text` and the time that is `left`, if it is time to; `share` of all work is done."""
        now = time.monotonic()
        if not self._on or now - self._said < EVERY:
            return
        self._said = now
        wait = (now - self._start) * (1 - share) / share if share > 0 else None
        note(text() + ("" if wait is None else f", {left.format(duration(wait))}"))


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 5 min`."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _shown(
    total: int, what: str, quiet: bool, unit: str, bar_options: dict[str, object]
) -> Iterator[Callable[[int], object]]:
    tqdm = bar_class()
    lines, start, done = Lines(quiet), time.monotonic(), 0

    with tqdm(total=total, desc=printable(what), disable=hidden(quiet), **bar_options) as bar:

        def update(count: int) -> None:
            nonlocal done
            done += count
            bar.update(count)
            lines.tell(text, done / total if total else 1.0)

        def text() -> str:
            pace = done / max(time.monotonic() - start, 1e-9)
            if unit == "bytes":
                return f"{what}: {size_in_words(done)} of {size_in_words(total)}, {size_in_words(int(pace))}/s"
            return f"{what}: {done:,} of {total:,} {unit}, {pace:,.0f}/s"

        yield update
