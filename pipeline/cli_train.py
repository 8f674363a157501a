"""`train`: parsing and printing only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from crossllm.cache.cli_flags import PathName, dask_option, on_bad_option, out_option
from crossllm.cache.cli_remote import any_cache_folder, object_stores
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Command
from crossllm.cache.console.runner import run as run_program
from crossllm.cache.errors import InputError, one_line, printable
from crossllm.cache.files.paths import as_text
from crossllm.pipeline.cli_split_flags import SEED, SPLIT_SETTINGS, setting_flags, split_file_option, take_settings

if TYPE_CHECKING:
    from crossllm.cache.cluster.address import ClusterName
    from crossllm.pipeline.ranks.ranks import Ranks

SETTINGS = {
    "system": ("NAME", "What is fitted: crossllm_mamba, or a system of docs/guide/systems.md.", "crossllm_mamba"),
    **SPLIT_SETTINGS,
    "protocol": ("NAME", "honest, or paper: best epoch on the scored pairs, an optimistic number.", "honest"),
    "tokens": ("NAME", "residue, window:K, pooled (one token a partner) or auto.", "auto"),
    "epochs": ("N", "Most epochs.", "40"),
    "patience": ("N", "Epochs without a better validation loss before training stops.", "8"),
    "batch_pairs": ("N", "Most pairs a step.", "32"),
    "batch_tokens": ("N", "Most tokens a step.", "65536"),
    "fusion": ("NAME", "cross_mamba, concat, gated or cross_attention.", "cross_mamba"),
    "compute": ("TYPE", "Of the matrix products: float32, bfloat16, or auto, what the device is made for.", "float32"),
    "scan": ("NAME", "Backend of the scan: reference, numba, triton, mamba_ssm or auto.", "auto"),
    "lr": ("RATE", "Learning rate.", "0.001"),
    "d_model": ("N", "Width of the model.", "32"),
    "d_state": ("N", "State of the scan.", "16"),
    "ensemble": ("N", "Models that are trained side by side and averaged.", "1"),
    "noise": ("SIGMA", "σ of the projections' noise.", "0.1"),
    **SEED,
}
"""Settings that have a flag: metavar, help, and the default of `pipeline.training.config`, to which a test holds it.

The flags are texts here: `crossllm.pipeline.training.config.resolve` checks them as it checks `--set` and `--config`.
"""


recipe_option = click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="a=NAME|b=NAME",
    help="Recipe of a side where the cache holds several: encoder, folder name or digest.  Given twice for a side, the "
    "columns of both are joined.",
)


@click.command(
    "train",
    cls=Command,
    short_help="Train and evaluate on a cache, with baselines beside it.",
    examples=(
        "train cache/mine",
        "train cache/mine --split cluster --seeds 3 -o runs/cluster",
        "train cache/mine --epochs 20 --set loss=bce --baselines fast",
        "train cache/mine --resume",
    ),
)
@any_cache_folder
@object_stores("cache_dir", needs_out=True)
@recipe_option
@setting_flags(SETTINGS)
@click.option(
    "--config",
    "config_file",
    type=PathName(),
    default=None,
    help="TOML file with the tables [train] and [model]; a run's own config.toml will do for its settings.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of config.toml; may be given several times.  --config < --set < flags.",
)
@split_file_option
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=None,
    metavar="K",
    help="Repeat it all with the seeds seed … seed + K - 1, each a run in OUT/seed-S.  [default: 1]",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Folds at a time, sharing the cores."
)
@dask_option("Workers of a Dask cluster fit the folds")
@click.option("--by", default=None, metavar="COLUMN", help="Score each value of this column of pairs.tsv as well.")
@click.option(
    "--baselines",
    default=None,
    metavar="NAME,…|fast|all|none",
    help="Baselines beside the model; fast: those of ids and lengths alone.  [default: all]",
)
@click.option("--final", is_flag=True, help="After the folds, fit one model on all pairs, for predict --model final.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@out_option("The run's folder. Default: runs/<name of the dataset> in the cache.")
@on_bad_option("Pairs without an embedding: stop, or leave them out, counted.")
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out with its own settings; an absent folder starts one."
)
@click.option(
    "--io",
    type=click.Choice(["mmap", "pread"]),
    default="mmap",
    show_default=True,
    help="Read rows as views of mapped files, or by pread: slower, but a file cut meanwhile is an error, not a signal.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json instead of the table.")
def train(**flags: Any) -> None:
    """Train and evaluate the fusion model on a cache, one model a fold, with baselines beside it.

    Started by torchrun, all its processes train each model together.
    """
    prepare_machine()
    # Before torch loads OpenMP.  By default its threads spin for long while they wait; two jobs on the same cores then
    # slow each other twenty-fold (docs/LOG.md).  Read by GNU's OpenMP, which torch and Numba use on Linux.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    from crossllm.pipeline.ranks.launch import launched

    if (found := launched()) is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # also before torch: its traces of a closed connection
    from crossllm.pipeline.ranks.ranks import ALONE

    _check_where(flags["dask"], flags["jobs"], flags["device"], alone=found is None)
    if found is not None and flags["jobs"] > 1:
        raise InputError("--jobs: takes processes of its own, and torchrun started several; leave one of the two out")
    if found is None:
        check_device(flags["device"])
        _train(ALONE, **flags)
        return
    from crossllm.pipeline.ranks.session import together

    with together(found, flags["device"]) as ranks:
        _train(ranks, **flags)


def _train(
    ranks: Ranks,
    as_json: bool,
    cache_dir: Path,
    recipes: tuple[str, ...],
    config_file: Path | None,
    sets: tuple[str, ...],
    seeds: int | None,
    jobs: int,
    dask: ClusterName | None,
    **flags: Any,
) -> None:
    """What one process does; of several all but the first do what that one tells them."""
    from functools import partial

    from crossllm.cache.console.machine import keep_freed_memory
    from crossllm.pipeline.data.dataset import default_run
    from crossllm.pipeline.evaluation.seeds_table import seeds_table
    from crossllm.pipeline.evaluation.table import table
    from crossllm.pipeline.experiments.fold_processes import fit_in_processes
    from crossllm.pipeline.experiments.row_processes import threads_each
    from crossllm.pipeline.experiments.seeds import train_seeds
    from crossllm.pipeline.systems.following import follow
    from crossllm.pipeline.train import train as run_training
    from crossllm.pipeline.training.config import held_config, held_recipes, resolve
    from crossllm.pipeline.training.inputs import TrainOptions
    from crossllm.pipeline.training.seed_folders import held_seeds

    chosen = recipes_of(recipes)
    flags["by"] = flags["by"] and as_text(flags["by"])
    flags["baselines"] = flags["baselines"] and as_text(flags["baselines"])
    settings = take_settings(flags, SETTINGS)
    if flags["resume"] and config_file is None and (held := held_config(flags["out"] or default_run(cache_dir))):
        config_file, chosen = held, held_recipes(held) | chosen
    config = resolve(
        config_file, [*map(as_text, sets)], {name: as_text(text) for name, text in settings.items() if text is not None}
    )
    keep_freed_memory()
    threads = threads_each(jobs if dask is None else dask.workers or 1) if jobs > 1 or dask is not None else None
    options = TrainOptions(cache_dir, config, chosen.get("a"), chosen.get("b"), threads=threads, ranks=ranks, **flags)
    if not ranks.first:
        follow(options, ranks)
        return
    held_before = held_seeds(flags["out"] or default_run(cache_dir)) if flags["resume"] else None
    repeated = (seeds or 1) > 1 or held_before is not None
    ahead = partial(fit_in_processes, jobs=jobs, dask=dask) if jobs > 1 or dask is not None else None
    count = seeds or len(held_before or (config.seed,))
    done = train_seeds(options, count, ahead) if repeated else run_training(options, ahead)
    ranks.tell(None)
    if as_json:
        click.echo(json.dumps(done.metrics))
        return
    click.echo(seeds_table(done.metrics) if repeated else table(done.metrics))
    say(f"→ {done.folder}")


def _check_where(dask: ClusterName | None, jobs: int, device: str, *, alone: bool) -> None:
    """Raise `InputError` where folds would be fitted in two places, or Dask cannot be used."""
    from crossllm.cache.cluster.opening import require_dask
    from crossllm.cache.cluster.sizing import check_device as check_workers_device

    if dask is None:
        return
    require_dask()
    check_workers_device(dask, device)
    if jobs > 1 or not alone:
        raise InputError(f"--dask {dask.text}: its workers fit the folds; leave --jobs or torchrun out")


def recipes_of(texts: tuple[str, ...]) -> dict[str, str]:
    """Side → recipe, of what `--recipe` was given; several of a side with + between them."""
    found: dict[str, str] = {}
    for text in texts:
        side, equals, name = text.partition("=")
        if side not in ("a", "b") or not equals or not name:
            raise InputError(f"--recipe '{printable(text)}' is not a=NAME or b=NAME")
        found[side] = f"{found[side]}+{name}" if side in found else name
    return found


def check_device(name: str) -> None:
    """Raise `InputError` for a device that torch cannot compute on here."""
    import torch

    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise InputError(f"--device {printable(name)}: {one_line(error)}; cpu always works") from None


def main() -> NoReturn:
    """The `train` program."""
    run_program(train)
