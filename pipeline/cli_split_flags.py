"""The flags that name a split, shared by `train`, `data split` and `data leaks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from crossllm.cache.cli_flags import PathName
from crossllm.cache.errors import InputError, printable

SPLIT_SETTINGS = {
    "split": (
        "NAME",
        "random (distinct sequence pairs), cold-a, cold-b, cold-both (partners unseen), cluster (relatives too), given "
        "(a column of pairs.tsv), transfer or file.",
        "random",
    ),
    "fold_column": ("COLUMN", "Column for --split given.", "fold"),
    "folds": ("N", "Folds; where both sides are cut, parts of each.", "5"),
    "blocks": ("NAME", "Where both sides are cut: diagonal (each partner tested once) or all (each pair).", "diagonal"),
    "identity_a": ("SHARE", "Of relatives of side A; 0: RNA 0.8, protein 0.3, molecule 0.7.", "0.0"),
    "identity_b": ("SHARE", "Of relatives of side B.", "0.0"),
    "molecules": ("NAME", "Relatives by inchikey (parent structure), scaffold or ecfp.", "inchikey"),
    "train_on": ("COLUMN=VALUE", "For --split transfer: the pairs to train on.", ""),
    "test_on": ("COLUMN=VALUE", "The pairs to test on.", ""),
}
"""Settings of a split that have a flag: metavar, help, default; as `SETTINGS` of `cli_train`."""
SEED = {"seed": ("N", "Of folds, weights, order and noise.", "0")}


def setting_flags(settings: Mapping[str, tuple[str, str, str]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A flag for each setting; texts, which `crossllm.pipeline.training.config.resolve` checks."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, (metavar, text, default) in reversed(list(settings.items())):
            shown = f"{text}  [default: {default}]" if default else text
            flag = "--" + name.replace("_", "-")
            command = click.option(flag, default=None, metavar=metavar, help=shown)(command)
        return command

    return add


def split_file_option(command: Callable[..., None]) -> Callable[..., None]:
    """`--split-file`."""
    text = "For --split file: a splits.tsv of `crossllm data split`, or of another run."
    return click.option("--split-file", type=PathName(), default=None, help=text)(command)


def take_settings(flags: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, str | None]:
    """The settings among parsed flags, taken out of them; a split file is a split.

    Raises:
        InputError: a split file beside another split.
    """
    found: dict[str, str | None] = {name: flags.pop(name) for name in settings}
    if flags["split_file"] is not None:
        if found["split"] not in (None, "file"):
            raise InputError(
                f"--split-file: is a split, --split {printable(found['split'])} cuts another; leave one of the two out"
            )
        found["split"] = "file"
    return found
