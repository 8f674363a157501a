"""The flags that say where the sequences and rows of new pairs come from, of `predict`, `screen` and `explain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from crossllm.cache.cli_flags import PathName
from crossllm.cache.cli_remote import OR_ADDRESS, AnyCachePath, object_stores

data_option = click.option(
    "--data",
    type=AnyCachePath(),
    default=None,
    help=f"Dataset that the run was trained on: a folder{OR_ADDRESS}.  [default: the folder that the run lies in]",
)
device_option = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")


def partner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The run, the files of both partners, and where rows come from."""
    flags = (
        click.argument("run", type=PathName(), metavar="RUN"),
        click.option("--a", default=None, metavar="MODALITY=FILE", help="First partners, e.g. rna=rna.fasta."),
        click.option("--b", default=None, metavar="MODALITY=FILE", help="Second partners."),
        click.option(
            "--cache",
            "-c",
            "cache_dir",
            type=AnyCachePath(),
            default=None,
            help=f"Cache for new rows, read beside the run's own: a folder{OR_ADDRESS}.  [default: the run's own]",
        ),
        data_option,
        click.option(
            "--weights-a", type=PathName(), default=None, help="Weights of side a's encoder, held to the run's."
        ),
        click.option("--weights-b", type=PathName(), default=None, help="Weights of side b's encoder."),
        device_option,
    )
    command = object_stores("cache_dir", "data")(command)
    for flag in reversed(flags):
        command = flag(command)
    return command
