"""Where the embeddings of a cache lie: in it, or in the folder that its dataset.toml names as `embeddings`.

So that many datasets share one store.  Rows are keyed by sequence, so ids of several datasets may clash: each dataset
keeps its own table of ids, its pairs and its runs, and takes rows alone from the store.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from crossllm.cache.errors import CacheCorrupt, InputError, one_line, printable
from crossllm.cache.files.paths import code_problem, url_problem
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.remote.by_path import mirror_of

_MAX_TOML = 1 << 20


def store_folder(cache_dir: Path) -> Path:
    """The folder in which `embeddings/` of a cache lies: itself, or the one that its dataset.toml names.

    Raises:
        InputError: what it names cannot be one.
    """
    where = cache_dir / "dataset.toml"
    if (named := _named(where)) is None:
        return cache_dir
    fix = 'write a folder, e.g. embeddings = "../all_rows"'
    if not isinstance(named, str) or not named or "\0" in named:
        raise InputError(f"{where}: embeddings = {printable(repr(named))} is no path; {fix}")
    if (problem := url_problem(named)) is not None:
        raise InputError(f"{where}: embeddings: {problem}")
    if (mirror := mirror_of(cache_dir)) is not None:
        raise InputError(f"{mirror.address}/dataset.toml: embeddings: in an object store a cache holds its own alone")
    found = cache_dir / named
    if (problem := code_problem(found)) is not None:
        raise InputError(f"{where}: embeddings: {problem}; {fix}")
    if found.exists() and cache_dir.exists() and found.samefile(cache_dir):
        return cache_dir
    if _named(found / "dataset.toml") is not None:
        raise InputError(f"{where}: embeddings: {found} takes its own from elsewhere; name that folder")
    return found


def refuse_absent_store(cache_dir: Path) -> None:
    """Raise `InputError` where a dataset.toml names a folder that is not there, as when one of the two was moved."""
    found = store_folder(cache_dir)
    if found is not cache_dir and not found.exists():
        raise InputError(
            f"{cache_dir / 'dataset.toml'}: takes its embeddings from {found}, which is not there; was one of the two "
            "moved? correct the line that begins with 'embeddings'"
        )


def embeddings_folder(cache_dir: Path) -> Path:
    """`embeddings/` of a cache, or of the one whose embeddings it takes."""
    return store_folder(cache_dir) / "embeddings"


def _named(where: Path) -> object:
    """What a dataset.toml says of embeddings; None where it says nothing, or is damaged, which others say."""
    try:
        data = read_bytes(where, _MAX_TOML)
    except (OSError, CacheCorrupt):
        return None
    if b"embeddings" not in data:
        return None
    try:
        return tomllib.loads(data.decode()).get("embeddings")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {one_line(error)}; correct the file") from None
