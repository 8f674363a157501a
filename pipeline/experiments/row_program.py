"""The program that trains one row of an ablation, as a child of `ablate`; its argument is JSON.

A process of its own: a row that runs out of memory or crashes takes no other with it, and what its process has loaded
is what training loads.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import click

from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.runner import run as run_program


@click.command("train")
@click.argument("asked")
def row(asked: str) -> None:
    """Train one row."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    prepare_machine()
    from crossllm.cache.console.machine import keep_freed_memory
    from crossllm.cache.remote.opening import CacheName, open_named
    from crossllm.pipeline.experiments.seeds import train_seeds
    from crossllm.pipeline.train import train
    from crossllm.pipeline.training.config import resolve
    from crossllm.pipeline.training.inputs import TrainOptions

    keep_freed_memory()
    found = json.loads(asked)
    config = resolve(found["config"] and Path(found["config"]), found["sets"])
    if (split := found["options"].pop("split_file", None)) is not None:
        found["options"]["split_file"] = Path(split)
    options = TrainOptions(
        open_named(CacheName(*found["cache"])), config, out=Path(found["out"]), resume=True, **found["options"]
    )
    if found["seeds"] > 1:
        train_seeds(options, found["seeds"])
    else:
        train(options)


def end_with_parent() -> None:
    """Leave when standard input closes, which it does with the parent, however that ended.

    Nothing is lost by it that SIGKILL would not lose: every file of a run is whole at any instant.
    """
    while os.read(0, 1):
        pass
    os._exit(143)


if __name__ == "__main__":
    run_program(row)
