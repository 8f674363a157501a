"""`crossllm`: every command under one name."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from crossllm.cache.console.once import Group
from crossllm.cache.console.runner import run as run_program

COMMANDS = {
    "data": ("crossllm.pipeline.cli_data", "data"),
    "embed": ("crossllm.embed.cli", "embed"),
    "train": ("crossllm.pipeline.cli_train", "train"),
    "ablate": ("crossllm.pipeline.cli_ablate", "ablate"),
    "compare": ("crossllm.pipeline.cli_compare", "compare"),
    "predict": ("crossllm.pipeline.cli_use", "predict"),
    "screen": ("crossllm.pipeline.cli_use", "screen"),
    "evaluate": ("crossllm.pipeline.cli_use", "evaluate"),
    "explain": ("crossllm.pipeline.cli_explain", "explain"),
    "report": ("crossllm.pipeline.cli_report", "report"),
    "cache": ("crossllm.embed.cli_cache", "cache"),
    "doctor": ("crossllm.pipeline.cli_doctor", "doctor"),
    "completion": ("crossllm.pipeline.cli_completion", "completion"),
}
"""Command → its module and its name there; a module is imported when its command is run, and for the list of all."""


class LazyGroup(Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    "crossllm",
    cls=LazyGroup,
    examples=(
        "crossllm data demo -c cache/demo",
        "crossllm cache info cache/demo",
        "crossllm train cache/demo --epochs 5",
    ),
)
def crossllm() -> None:
    """Cross-Mamba interaction models on cached embeddings of biological language models."""


def main() -> NoReturn:
    """The `crossllm` program."""
    run_program(crossllm)
