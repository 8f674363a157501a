"""Flags that several commands share, each said once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class ByteSize(click.ParamType[int]):
    """A number of bytes: 1048576, 1024KiB, 1MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes, or a usage error."""
        match = re.fullmatch(r"([1-9][0-9]{0,14})(|KiB|MiB|GiB)", str(value))
        if match is None:
            self.fail(f"'{value}' is no size; write 268435456 or 256MiB.", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


cache_option = click.option(
    "--cache", "cache_dir", type=click.Path(path_type=Path), required=True, help="Folder of the cache."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress bar.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")
