"""`write_report`: finished runs and ablations → one self-contained page.

The page needs no script and nothing from elsewhere, and says so to the browser (its content security policy); the same
folders give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, one_line, plain_line, printable
from crossllm.cache.files import fsio
from crossllm.pipeline.page.sections import Page, build_page
from crossllm.pipeline.page.sources import read_sources

GENERATOR = '<meta name="generator" content="crossllm report">'
"""Stands in every page of ours, near its beginning; a file without it is never replaced."""
MOST_BYTES = 3_000_000
"""Of a page: what a mail takes, and a phone opens at once."""
_HERE = Path(__file__).parent


class Written(NamedTuple):
    """A page that was written."""

    path: Path
    size: int
    """In bytes."""
    page: Page


def write_report(runs: Sequence[str | Path], out: str | Path, title: str | None = None) -> Written:
    """Write the page of these runs and ablations; whole or not at all.

    Args:
        runs: folders of finished runs, of one seed or several, and of ablations.
        out: where the page goes; an earlier page there is replaced.
        title: its heading; the names of the datasets where none is given.

    Raises:
        InputError: a folder without a finished run, no folder for the page, or more runs than a page holds.
        CacheCorrupt: a run's files are not what a run leaves behind.
        Conflict: a file is there that is no such page.
    """
    out = Path(out)
    _check_out(out)
    sources = read_sources([Path(run) for run in runs])
    try:
        page = build_page(sources, title, version("crossllm-mamba"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        folders = ", ".join(str(source.folder) for source in sources)
        raise CacheCorrupt(f"{folders}: {type(error).__name__} {one_line(error)} in its files; train again") from None
    data = render(page).encode()
    if len(data) > MOST_BYTES:
        raise InputError(
            f"{out}: {len(data):,} bytes for {len(page.runs)} runs, at most {MOST_BYTES:,} are meant for a page; "
            "make several pages"
        )
    fsio.replace(out, data)
    return Written(out, len(data), page)


def render(page: Page) -> str:
    """The page as HTML; every text in it is escaped by the template."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_shown,
    )
    environment.filters["breakable"] = _breakable
    style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.jinja").render(page=page, style=style, generator=Markup(GENERATOR))


def _as_shown(value: object) -> object:
    """Text without a character that turns or hides others, and with a number and its sign on one line."""
    if type(value) is not str:
        return value
    return plain_line(value).replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def _breakable(name: str) -> Markup:
    """A name that may be broken after the signs that join its words, where a column is narrow."""
    parts = re.split("([_/=])", plain_line(name))
    return Markup("").join(part + Markup("<wbr>") if part in ("_", "/", "=") else part for part in parts)


def _check_out(out: Path) -> None:
    """Before anything is read: whether the page can be put there."""
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it, or name another place by --out")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file, e.g. {out / 'report.html'}")
    if out.exists() or out.is_symlink():
        try:
            with out.open("rb") as file:
                ours = GENERATOR.encode() in file.read(2048)
        except OSError as error:
            raise Conflict(f"{out}: {error.strerror}; name another file by --out") from None
        if not ours:
            raise Conflict(f"{printable(str(out), 200)}: is there and is no report; name another file by --out")
