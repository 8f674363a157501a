"""What a path from a user must not be: an address of something that is no file, a folder of code."""

from __future__ import annotations

import os
import re
from pathlib import Path

from crossllm.cache.errors import printable

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
STORES = ("s3", "gs", "az")
"""Schemes of object stores that a cache may lie in."""


def is_url(given: str) -> bool:
    """Whether this is an address like `s3://bucket/x`, no path; a drive of Windows is one letter."""
    match = _URL.match(given)
    return match is not None and len(match[1]) > 1


def shown_url(given: str) -> str:
    """An address without what may be a secret: a login, a query, a fragment."""
    scheme, _, rest = given.partition("://")
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    hidden = "…" if place != rest else ""
    host, slash, path = place.partition("/")
    # A login may hold a '/', which no login should: what stands before the last '@' goes, wherever it is.
    if "@" in place and ("@" in host or ":" in host):
        host, slash, path = place.rpartition("@")[2].partition("/")
    return printable(f"{scheme}://{host}{slash}{path}{hidden}", 120)


def url_problem(given: str) -> str | None:
    """What is wrong with an address like `s3://bucket/x` where a path is expected; None for a path.

    `Path` makes `s3:/bucket/x` of it, and a folder of that name would be made in silence.
    """
    if not is_url(given):
        return None
    scheme = given.partition("://")[0]
    fix = f"{printable(scheme)} is not supported, copy the files here or mount them"
    if scheme in STORES:
        fix = "only caches are taken from there, copy the files here"
    elif scheme == "file":
        fix = "write the path alone"
    return f"'{shown_url(given)}' is an address, a path on this machine is expected; {fix}"


def store_problem(given: str) -> str:
    """What is wrong with the address of a cache in an object store where a command needs its folder."""
    address = shown_url(given)
    folder = f"cache/{address.rstrip('/').rpartition('/')[2]}"
    return (
        f"'{address}' is an address, a path on this machine is expected; `crossllm cache merge -c {folder} {address}` "
        "copies rows and ids here, `aws s3 sync` the cache as it is"
    )


def as_text(given: str) -> str:
    r"""A file's name or a word of the command line as UTF-8 can hold it, whatever the locale is.

    Under LC_ALL=C Python hands over each byte of an 'é' as half of a surrogate; a name in Latin-1 is no UTF-8 at all,
    and its odd bytes are written as `\xe9`.
    """
    try:
        given.encode()
    except UnicodeEncodeError:
        return os.fsencode(given).decode("utf-8", "backslashreplace")
    return given


def code_problem(folder: Path) -> str | None:
    """What is wrong with a folder of Python code where a cache is expected; None for any other."""
    return f"{folder}: holds Python code (__init__.py), no cache" if (folder / "__init__.py").exists() else None
