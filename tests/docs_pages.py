"""Pages of the documentation as a test reads them: their fenced blocks, and the command lines in those."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click
from conftest import ROOT

PROGRAMS = {
    "embed": ("crossllm.embed.cli", "embed"),
    "train": ("crossllm.pipeline.cli_train", "train"),
    "crossllm": ("crossllm.pipeline.cli", "crossllm"),
}
"""Program → where its click command lies."""
INFO_STRINGS = {
    "sh": "commands that are run as printed",
    "sh weights": "commands that need published weights or a network: their flags and values are parsed",
    "sh s3": "commands on an object store, run by test_cli_remote against a server",
    "sh make": "commands around `make`: the targets exist",
    "python": "code that is run, one namespace a page",
    "text": "output, or the content of a file",
}
"""What a fenced block may be."""
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDE]
"""The pages whose blocks are run."""

_FENCE = re.compile(r"^ *```(.*)$")
_SHELL = re.compile(r"[|<>;&$`]")


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    line: int
    """Of its first line of content, from 1."""
    info: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """One command line of a block."""

    place: str
    text: str
    """As printed, continued lines joined, the comment at its end cut."""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def in_process(self) -> bool:
        """Whether it is one of our programs alone, with nothing that only a shell understands."""
        return self.words[0] in PROGRAMS and not _SHELL.search(self.text)


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found, opened = [], None
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if (fence := _FENCE.match(line)) is None:
            continue
        if opened is None:
            opened = number + 1, fence[1].strip()
        else:
            assert not fence[1], f"{page.name}:{number}: a block opens in a block"
            found.append(Block(page, *opened, "\n".join(lines[opened[0] - 1 : number - 1]) + "\n"))
            opened = None
    assert opened is None, f"{page.name}: a block that does not close"
    return found


def commands_of(block: Block) -> Iterator[Command]:
    """The command lines of a `sh` block."""
    text = re.sub(r"\\\n *", " ", block.text)
    for line in text.splitlines():
        if bare := re.sub(r"(^| +)#.*$", "", line).strip():
            yield Command(block.place, bare)


def click_command(program: str) -> click.Command:
    module, name = PROGRAMS[program]
    found: click.Command = getattr(import_module(module), name)
    return found


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """`(path, command)` of every command that is no group."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, f"{path} {name}")


def every_command() -> dict[str, click.Command]:
    """Every command by the name that the pages give it: `embed run`, not `crossllm embed run`."""
    found = dict(leaves(click_command("crossllm"), "crossllm"))
    short = {"crossllm train": "train"} | {name: name.removeprefix("crossllm ") for name in found if " embed " in name}
    return {short.get(name, name): command for name, command in found.items()}


def parse(words: list[str]) -> click.Context:
    """Read a command line as the program would, and run nothing.

    Raises:
        click.UsageError: no such command or flag, a flag that is missing, or a value of the wrong type.
    """
    command, path, rest = click_command(words[0]), words[0], words[1:]
    while isinstance(command, click.Group):
        name = rest.pop(0) if rest else ""
        below = command.get_command(click.Context(command), name)
        if below is None:
            raise click.UsageError(f"{path} has no command '{name}'")
        command, path = below, f"{path} {name}"
    return command.make_context(path, rest, help_option_names=["-h", "--help"])  # as the runner; a command keeps them
