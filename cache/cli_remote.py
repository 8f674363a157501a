"""`--cache s3://BUCKET/NAME`: the commands that take a cache in an object store, and the flags of its local copies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli_flags import ByteSize, CachePath, PathName, cache_folder_of
from crossllm.cache.errors import CrossLLMError, InputError
from crossllm.cache.files.paths import STORES, code_problem, is_url

if TYPE_CHECKING:
    from crossllm.cache.remote.address import Address

OR_ADDRESS = ", or s3://, gs:// or az://BUCKET/NAME"
_Command = Callable[..., Any]


class AnyCachePath(CachePath):
    """The folder of a cache, on this machine or in an object store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path or `Address`, or a usage error."""
        if not isinstance(value, str) or not is_url(value) or value.partition("://")[0] not in (*STORES, "file"):
            return super().convert(value, param, ctx)
        from crossllm.cache.remote.address import parse_address

        found = parse_address(value)
        if isinstance(found, Path) and (problem := code_problem(found)) is not None:
            self.fail(f"{problem}; name another folder, e.g. cache/NAME.", param, ctx)
        return found


any_cache_folder = cache_folder_of(AnyCachePath(), OR_ADDRESS)
"""As `cache_folder`, for a command with `object_stores`."""

any_cache_option = click.option(
    "--cache", "-c", "cache_dir", type=AnyCachePath(), required=True, help=f"Folder of the cache{OR_ADDRESS}."
)


_local_option = click.option(
    "--cache-local",
    type=PathName(file_okay=False),
    default=None,
    help="Of a cache in an object store: folder for its copies. Default: below the user's cache folder.",
)
_bytes_option = click.option(
    "--cache-bytes",
    type=ByteSize(),
    default=None,
    help="Of a cache in an object store: rows held in that folder, the longest unused go first. Default: 16GiB.",
)


def object_stores(*names: str, fresh: bool = False, needs_out: bool = False) -> Callable[[_Command], _Command]:
    """Let a command's caches `names` be addresses; it gets the folders of this machine that stand for them.

    Args:
        names: arguments of the command, each a path or a tuple of paths.
        fresh: nothing that was copied before is used.
        needs_out: the command writes into the cache unless its `out` is given.
    """

    def decorate(command: _Command) -> _Command:
        @wraps(command)
        def with_stores(*, cache_local: Path | None, cache_bytes: int | None, **given: Any) -> Any:
            stands_for: dict[str, Address] = {}
            with ExitStack() as stack:

                def opened(one: Any) -> Any:
                    if one is None or isinstance(one, Path):
                        return one
                    from crossllm.cache.remote.opening import HELD_BYTES, fresh_copy, open_cache

                    held = HELD_BYTES if cache_bytes is None else cache_bytes
                    if fresh:
                        folder = stack.enter_context(fresh_copy(one, cache_local, held))
                    else:
                        folder = open_cache(one, cache_local, held)
                    stands_for[str(folder)] = one
                    return folder

                for name in names:
                    many = isinstance(given[name], tuple)
                    if needs_out and given["out"] is None and not isinstance(given[name], Path):
                        raise InputError(
                            f"--out: is needed with {given[name]}: runs are kept on this machine, e.g. --out runs/NAME"
                        )
                    given[name] = tuple(map(opened, given[name])) if many else opened(given[name])
                if not stands_for and (cache_local is not None or cache_bytes is not None):
                    raise InputError(
                        "--cache-local and --cache-bytes: are for caches in object stores, this one is a folder; "
                        "leave them out"
                    )
                try:
                    return command(**given)
                except CrossLLMError as error:
                    error.lines = tuple(_by_address(line, stands_for) for line in error.lines)
                    raise

        return _local_option(_bytes_option(with_stores))

    return decorate


def _by_address(line: str, stands_for: dict[str, Address]) -> str:
    """An error as its reader knows the cache."""
    for folder, address in stands_for.items():
        line = line.replace(folder, str(address))
    return line
