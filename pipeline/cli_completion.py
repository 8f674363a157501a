"""`crossllm completion`: parsing and printing only."""

from __future__ import annotations

import click

from crossllm.cache.console.completion import SHELLS, completion_script
from crossllm.cache.console.once import Command


@click.command(
    "completion",
    cls=Command,
    short_help="Print what makes a shell complete commands and flags.",
    examples=(
        "crossllm completion bash >> ~/.bashrc",
        "crossllm completion zsh >> ~/.zshrc",
        "crossllm completion fish > ~/.config/fish/completions/crossllm.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes the commands, flags and choices of crossllm, embed and train."""
    click.echo(completion_script(shell))
