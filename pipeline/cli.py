"""`crossllm`: every command under one name."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from crossllm.cache.console.once import Group
from crossllm.cache.console.runner import run as run_program

COMMANDS = {
    "data": ("crossllm.pipeline.cli_data", "data", "Make datasets, split them, and look for leaks."),
    "embed": ("crossllm.embed.cli", "embed", "Run frozen encoders once over every distinct sequence, into a cache."),
    "train": ("crossllm.pipeline.cli_train", "train", "Train and evaluate the fusion model on a cache."),
    "ablate": ("crossllm.pipeline.cli_ablate", "ablate", "Train over a grid of settings: one table, one plot."),
    "compare": ("crossllm.pipeline.cli_compare", "compare", "Compare finished runs pair by pair with the first."),
    "cache": ("crossllm.embed.cli_cache", "cache", "Look into a cache of embeddings, check it, import and export."),
}
"""Command → its module, its name there and its help line; a module is imported when its command is run."""


class LazyGroup(Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from their help lines alone, nothing imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group("crossllm", cls=LazyGroup)
def crossllm() -> None:
    """Cross-Mamba interaction models on cached embeddings of biological language models."""


def main() -> NoReturn:
    """The `crossllm` program."""
    run_program(crossllm)
