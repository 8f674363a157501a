"""`train`: parsing and printing only."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import click

from cache.console import run as run_program
from cache.errors import InputError, printable


class Finite(click.FloatRange):
    """A float within a range; NaN, which no range excludes, and infinities are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


@click.command("train")
@click.option("--cache", "cache_dir", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="a=NAME|b=NAME",
    help="Recipe of a side where the cache holds several: encoder, folder name or digest.",
)
@click.option(
    "--split",
    type=click.Choice(["random", "given"]),
    default="random",
    show_default=True,
    help="Folds: random over distinct sequence pairs, or given by a column of pairs.tsv.",
)
@click.option("--fold-column", default="fold", show_default=True, help="Column for --split given.")
@click.option("--folds", type=click.IntRange(2, 100), default=5, show_default=True, help="Folds for --split random.")
@click.option("--tokens", default="auto", show_default=True, help="residue, window:K or auto.")
@click.option("--epochs", type=click.IntRange(min=1), default=40, show_default=True, help="Most epochs.")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Epochs without a better validation loss before training stops.",
)
@click.option("--batch-pairs", type=click.IntRange(min=1), default=32, show_default=True, help="Pairs a step.")
@click.option("--lr", type=Finite(0, 1, min_open=True), default=2e-3, show_default=True, help="Learning rate.")
@click.option("--d-model", type=click.IntRange(1, 4096), default=32, show_default=True, help="Width of the model.")
@click.option("--d-state", type=click.IntRange(1, 256), default=16, show_default=True, help="State of the scan.")
@click.option("--noise", type=Finite(min=0), default=0.1, show_default=True, help="σ of the projections' noise.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of folds, weights, order and noise.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="The run's folder. Default: runs/<name of the dataset> in the cache.",
)
@click.option(
    "--on-bad",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="Pairs without an embedding: stop, or leave them out, counted.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out; an absent folder starts one.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json instead of the table.")
def train(as_json: bool, cache_dir: Path, recipes: tuple[str, ...], **flags: Any) -> None:
    """Train and evaluate the fusion model on a cache, one model a fold, with the ID-only baselines beside it."""
    chosen = _recipes(recipes)
    # Before torch loads OpenMP.  By default its threads spin for long while they wait; two jobs on the same cores then
    # slow each other twenty-fold (docs/LOG.md).  Read by GNU's OpenMP, which torch and Numba use on Linux.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    _check_device(flags["device"])
    from pipeline.inputs import TrainOptions
    from pipeline.report import table
    from pipeline.train import train as run_training

    own = {name: flags.pop(name) for name in ("device", "out", "on_bad", "resume", "quiet")}
    done = run_training(TrainOptions(cache_dir, _config(flags), chosen.get("a"), chosen.get("b"), **own))
    if as_json:
        click.echo(json.dumps(done.metrics))
        return
    click.echo(table(done.metrics))
    click.echo(f"→ {done.folder}")


def _config(flags: dict[str, Any]) -> Any:
    """A `TrainConfig`: each flag goes to the field of its name, of the run or of the model."""
    from model.fusion import ModelConfig
    from pipeline.config import TrainConfig

    of_model = {field.name for field in dataclasses.fields(ModelConfig)}
    model = ModelConfig(**{name: value for name, value in flags.items() if name in of_model})
    return TrainConfig(model=model, **{name: value for name, value in flags.items() if name not in of_model})


def _recipes(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        side, equals, name = text.partition("=")
        if side not in ("a", "b") or not equals or not name:
            raise InputError(f"--recipe '{printable(text)}' is not a=NAME or b=NAME")
        found[side] = name
    return found


def _check_device(name: str) -> None:
    import torch

    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"--device {printable(name)}: {reason}; cpu always works") from None


def main() -> NoReturn:
    """The `train` program."""
    run_program(train)
