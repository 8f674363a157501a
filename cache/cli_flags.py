"""Flags that several commands share, each said once."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click

from crossllm.cache.cluster.address import ClusterName, parse_cluster
from crossllm.cache.errors import printable
from crossllm.cache.files.paths import STORES, code_problem, is_url, store_problem, url_problem
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.store.layout import Compressor, Store

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class ByteSize(click.ParamType[int]):
    """A number of bytes: 1048576, 1024KiB, 1MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes, or a usage error."""
        match = re.fullmatch(r"([1-9][0-9]{0,14})(|KiB|MiB|GiB)", str(value))
        if match is None:
            self.fail(f"'{printable(str(value))}' is no size; write 268435456 or 256MiB.", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class PathName(click.Path):
    """A path; an empty one, as an unset variable of a script leaves, would be the folder at hand."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or a usage error."""
        if value == "":
            self.fail("a path is expected, this one is empty; write '.' for the folder at hand.", param, ctx)
        if (problem := url_problem(str(value))) is not None:
            self.fail(problem, param, ctx)
        return super().convert(value, param, ctx)


class CachePath(PathName):
    """The folder of a cache; a folder of code beside it, as `cache/store` is in a checkout, is refused."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or a usage error."""
        if is_url(str(value)) and str(value).partition("://")[0] in STORES:
            self.fail(store_problem(str(value)), param, ctx)
        path = super().convert(value, param, ctx)
        if (problem := code_problem(path)) is not None:
            self.fail(f"{problem}; name another folder, e.g. cache/NAME.", param, ctx)
        return path


class CompressorName(click.Choice[str]):
    """none, which becomes None, or a compressor."""

    def __init__(self) -> None:
        super().__init__(["none", *get_args(Compressor)])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The compressor, or None."""
        name = super().convert(value, param, ctx)
        return None if name == "none" else name


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store` and `--compressor`: how a command that writes rows lays its segments down."""
    return _store_options(command, "zarr", "none", "")


def followed_store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command that goes on as the cache's segments are where neither is given: both are None then."""
    return _store_options(command, None, None, " Default: as the cache's segments are, {} for the first.")


def _store_options(
    command: Callable[..., Any], store: str | None, compressor: str | None, more: str
) -> Callable[..., Any]:
    names = click.Choice(["none", *get_args(Compressor)]) if compressor is None else CompressorName()
    layout = click.option(
        "--store",
        type=click.Choice(get_args(Store)),
        default=store,
        show_default=store is not None,
        help="How segments are laid down. An h5 segment waits in memory until it is committed." + more.format("zarr"),
    )
    codec = click.option(
        "--compressor",
        type=names,
        default=compressor,
        show_default=compressor is not None,
        help="For zarr: none or zstd." + more.format("none"),
    )
    return layout(codec(command))


def out_option(text: str, *, required: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--out`, also `-o`: what the command writes; `text` is its help."""
    absent = {} if required else {"default": None}  # a default, even None, would answer for what is required
    return click.option("--out", "-o", type=PathName(), required=required, help=text, **absent)


def cache_folder_of(
    kind: CachePath, more: str = "", *, needed: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The folder of a cache, as `--cache DIR` or as the command's argument; both, or none where it is needed, is a
    usage error.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_folder(*, folder: Path | None, cache_dir: Path | None, **given: Any) -> Any:
            if folder is not None and cache_dir is not None:
                raise click.UsageError(f"the cache is named twice, {folder} and --cache {cache_dir}; name it once.")
            if needed and folder is None and cache_dir is None:
                raise click.UsageError("no cache is named; add its folder, e.g. cache/NAME, or --cache DIR.")
            return command(cache_dir=folder if cache_dir is None else cache_dir, **given)

        text = f"Folder of the cache, as DIR is{more}."
        flag = click.option("--cache", "-c", "cache_dir", type=kind, default=None, help=text)
        return click.argument("folder", metavar="[DIR]", type=kind, required=False)(flag(with_folder))

    return decorate


cache_folder = cache_folder_of(CachePath())


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress bar.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")


def read_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags that say how a file of records is to be read; the command gets them as `reading`, a `ReadOptions`."""

    @functools.wraps(command)
    def with_reading(**asked: Any) -> Any:
        reading = ReadOptions(*(asked.pop(name) for name in ReadOptions._fields))
        if asked.get("modality") is not None:
            reading.refuse_unused([asked["modality"]])
        return command(reading=reading, **asked)

    flags = (
        click.option("--id-column", help="Of a table of molecules. Default: a column that ends in id, else a name."),
        click.option("--smiles-column", help="Of a table of molecules. Default: smiles, canonical_smiles, …"),
        click.option("--id-field", help="Data field of an SD file that holds the ids. Default: the title lines."),
        click.option(
            "--smiles-first",
            is_flag=True,
            help="Lines without a header are a SMILES, blanks or a TAB, and the id, as in most .smi files.",
        ),
        click.option(
            "--allow-nucleotides",
            is_flag=True,
            help="Take proteins of A, C, G, T, U and N alone as they are; where most are, they are asked about.",
        ),
    )
    for flag in reversed(flags):
        with_reading = flag(with_reading)
    return with_reading


def on_bad_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--on-bad`; `what` is bad, and how it is stopped at or left out."""
    choice = click.Choice(["error", "skip"])
    return click.option("--on-bad", type=choice, default="error", show_default=True, help=what)


class _Cluster(click.ParamType[ClusterName]):
    """local, local:N, the address of a Dask scheduler, or its file."""

    name = "cluster"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ClusterName:
        """The cluster, or the `InputError` of what is no name of one."""
        return value if isinstance(value, ClusterName) else parse_cluster(str(value))


def dask_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--dask`; `what` its workers do."""
    return click.option(
        "--dask",
        type=_Cluster(),
        default=None,
        metavar="local[:N]|tcp://HOST:PORT|FILE",
        help=f"{what}: N processes of this machine, or those of the scheduler at an address or in its file. "
        "docs/cluster.md.",
    )
