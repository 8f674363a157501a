"""`crossllm ablate`: parsing and printing only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from crossllm.cache.cli_flags import PathName, dask_option, on_bad_option, out_option
from crossllm.cache.cli_remote import any_cache_folder, object_stores
from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Command
from crossllm.cache.errors import InputError, PartlyDone
from crossllm.cache.files.paths import as_text
from crossllm.pipeline.cli_split_flags import split_file_option
from crossllm.pipeline.cli_train import check_device, recipe_option, recipes_of
from crossllm.pipeline.ranks.launch import refuse_several


@click.command(
    "ablate",
    cls=Command,
    short_help="Train a grid of settings: one table, one plot.",
    examples=(
        "crossllm ablate cache/mine --grid fusion=cross_mamba,concat --seeds 3",
        "crossllm ablate cache/mine --grid d_model=32,64 --grid lr=0.002,0.001 --one-at-a-time",
    ),
)
@any_cache_folder
@object_stores("cache_dir", needs_out=True)
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="FIELD=V1,V2",
    help="A setting of train and its values; may be given several times. The first row has the first value of each.",
)
@click.option(
    "--one-at-a-time", is_flag=True, help="The first row, then one field changed a row; not all combinations."
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Seeds of each row.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Rows at a time, sharing the cores."
)
@dask_option("Workers of a Dask cluster train the rows")
@recipe_option
@click.option("--config", "config_file", type=PathName(), default=None, help="TOML file with settings of all rows.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="A setting of all rows; may be repeated.")
@click.option(
    "--baselines",
    default=None,
    metavar="NAME,…|fast|all|none",
    help="Baselines beside every row.  [default: fast beside the first, none beside the others]",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@out_option("Its folder. Default: ablations/<fields> in the cache.")
@on_bad_option("Pairs without an embedding: stop, or leave them out, counted.")
@click.option(
    "--io",
    type=click.Choice(["mmap", "pread"]),
    default="mmap",
    show_default=True,
    help="Read rows as views of mapped files, or by pread.",
)
@split_file_option
@click.option("--quiet", is_flag=True, help="No line for each finished row.")
@click.option("--json", "as_json", is_flag=True, help="Print ablation.json instead of the table.")
def ablate(
    as_json: bool,
    cache_dir: Path,
    grids: tuple[str, ...],
    sets: tuple[str, ...],
    recipes: tuple[str, ...],
    **flags: Any,
) -> None:
    """Train a grid of settings on a cache: one table, one plot, each row tested against the first.

    Each row is an ordinary run in OUT/rows. Run the same command again to go on after an interruption, or with more
    values; finished rows are kept.
    """
    chosen = recipes_of(recipes)
    refuse_several("crossllm ablate")
    prepare_machine()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # for the rows' processes, as `train` has it
    from crossllm.pipeline.experiments.ablation import AblationOptions
    from crossllm.pipeline.experiments.ablation import ablate as run_ablation
    from crossllm.pipeline.experiments.ablation_table import ablation_table, hit_report

    flags["baselines"] = flags["baselines"] and as_text(flags["baselines"])
    if flags["dask"] is None:  # else the workers have it
        check_device(flags["device"])
    elif flags["jobs"] > 1:
        raise InputError("--jobs: --dask says how many rows are trained at a time; give one of the two")
    options = AblationOptions(
        cache_dir, [*map(as_text, grids)], sets=[*map(as_text, sets)], recipe_a=chosen.get("a"),
        recipe_b=chosen.get("b"), **flags,
    )  # fmt: skip
    done = run_ablation(options)
    if as_json:
        click.echo(json.dumps(done.report.as_json()))
    else:
        click.echo(ablation_table(done.report))
        click.echo(hit_report(done.report))
        say(f"→ {done.folder}")
    if done.failed:
        raise PartlyDone(
            f"{done.failed} of {len(done.report.results)} rows failed; {done.folder / 'ablation.tsv'} says why, and "
            "the same command tries them again"
        )
