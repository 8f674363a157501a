"""`python -m crossllm.<module>`: a module that is no program would be loaded, do nothing and exit with 0."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

PROGRAMS = (
    "crossllm",
    "crossllm.__main__",
    "crossllm.cache.records.rdkit_child",
    "crossllm.embed.foreign.hdf5_child",
    "crossllm.pipeline.doctor.child",
    "crossllm.pipeline.experiments.fold_program",
    "crossllm.pipeline.experiments.row_program",
)
"""The umbrella command, and the children that our own processes start."""
INSTEAD = {
    "crossllm.embed": "embed",
    "crossllm.cache": "cache",
    "crossllm.pipeline.cli_train": "train",
    "crossllm.pipeline.train": "train",
    "crossllm.pipeline.cli_data": "data",
    "crossllm.pipeline.cli_ablate": "ablate",
    "crossllm.pipeline.cli_compare": "compare",
    "crossllm.pipeline.cli_report": "report",
    "crossllm.pipeline.page": "report",
    "crossllm.pipeline.experiments.ablation": "ablate",
    "crossllm.pipeline.experiments.compare": "compare",
    "crossllm.pipeline.data": "data",
    "crossllm.embed.cli_cache": "cache",
}
"""Module, or the package it lies in → the command that was meant."""
_FLAGS = re.compile(r"-[a-zA-Z]*?m(.*)")


def refuse_no_program(command: Sequence[str]) -> None:
    """End the process with one line and exit code 2 where `python -m` asks for a module of ours that is no program.

    Args:
        command: the interpreter's own, `sys.orig_argv`.
    """
    module = _module(command)
    if module is None or module in PROGRAMS or module.partition(".")[0] != "crossllm":
        return
    near = next((name for name in sorted(INSTEAD, key=len, reverse=True) if f"{module}.".startswith(f"{name}.")), "")
    run = f"python -m crossllm {INSTEAD[near]}" if near else "python -m crossllm"
    shown = module if module.isprintable() else ascii(module)
    print(f"error: {shown} is no program; run `{run}`, or see `python -m crossllm --help`", file=sys.stderr)
    raise SystemExit(2)


def _module(command: Sequence[str]) -> str | None:
    """The module after `-m`, which stands alone, after other letters (`-Im`) or before its name (`-mNAME`)."""
    words = iter(command[1:])
    for word in words:
        if word in ("-W", "-X"):
            next(words, None)
        elif not word.startswith("--") and word[:2] not in ("-W", "-X") and (found := _FLAGS.fullmatch(word)):
            return found[1] or next(words, None)
    return None
