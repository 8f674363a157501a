"""The program that fits one fold of a run, as a child of `train --jobs`; its argument is JSON."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import click

from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.console.runner import run as run_program
from crossllm.pipeline.experiments.row_program import end_with_parent


@click.command("train")
@click.argument("asked")
def fold(asked: str) -> None:
    """Fit one fold."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    prepare_machine()
    from crossllm.cache.console.machine import keep_freed_memory
    from crossllm.cache.remote.opening import CacheName, open_named
    from crossllm.pipeline.train import fit_one_fold
    from crossllm.pipeline.training.config import resolve
    from crossllm.pipeline.training.inputs import TrainOptions

    keep_freed_memory()
    found = json.loads(asked)
    out = Path(found["options"].pop("out"))
    options = TrainOptions(
        open_named(CacheName(*found["cache"])),
        resolve(Path(found["config"])),
        out=out,
        resume=True,
        quiet=True,
        **found["options"],
    )
    fit_one_fold(options, found["number"], found["digest"], found["baselines"])


if __name__ == "__main__":
    run_program(fold)
