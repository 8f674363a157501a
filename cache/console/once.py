"""Commands in which an option that takes one value is given once: click would lose all but the last in silence.

Every one has `--version` and examples in its help, and says which flag a path that stands alone is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from crossllm.cache.errors import printable


class Command(click.Command):
    """A click command that refuses an option given twice, but for switches and those that may be repeated.

    Args:
        arguments: of `click.Command`, as `settings`.
        examples: command lines for the help, each whole, as it would be typed.
        settings: of `click.Command`.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = tuple(examples)
        self.params.append(_version())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, once the order of the options was looked at."""
        if ctx.resilient_parsing:  # a shell completes a line that is not finished: nothing in it is wrong yet
            return super().parse_args(ctx, args)
        _, left, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in order:
            one = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
            if one and order.count(parameter) > 1:
                name = max(parameter.opts, key=len)
                raise click.UsageError(f"{name}: is given twice, it takes one value; give it once.", ctx)
        if left and (flag := self._meant(left[0], [name for parameter in order for name in parameter.opts])):
            shown = printable(left[0])
            raise click.UsageError(
                f"'{shown}' stands alone, without the flag that it is for; write {flag} {shown}.", ctx
            )
        return super().parse_args(ctx, args)

    def _meant(self, word: str, given: list[str]) -> str | None:
        """The flag that a path on its own is most likely for: --input of a file, else --cache; None: for neither."""
        known = [name for parameter in self.params for name in parameter.opts if name not in given]
        order = ("--input", "--cache") if Path(word).is_file() else ("--cache", "--input")
        return next((flag for flag in order if flag in known), None)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, last in the help: nearest to where the next command is typed."""
        _write_examples(formatter, self.examples)


class Group(click.Group):
    """A group whose commands are of the class above; asked for nothing, it lists them."""

    command_class: Any = Command

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = tuple(examples)
        self.params.append(_version())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every command below, also those of groups, with one line each."""
        rows = _lines_of(self, ctx)
        with formatter.section("Commands"):
            formatter.write_dl(rows, col_max=max(len(name) for name, _ in rows))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        _write_examples(formatter, self.examples)


_WIDEST = 80
"""Of a help line in letters, name and indentation with it; a longer one would end in dots or on a second line."""


def _lines_of(group: click.Group, ctx: click.Context, before: str = "") -> list[tuple[str, str]]:
    """`(name, help line)` of every command that is no group; the name as it is typed after that of `group`."""
    found: list[tuple[str, str]] = []
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            found += _lines_of(command, ctx, f"{before}{name} ")
        elif command is not None:
            found.append((before + name, command.get_short_help_str(_WIDEST)))
    return found


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Each on a line of its own, however long: one that is wrapped cannot be copied."""
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _version() -> click.Option:
    """`--version`, in every command and group: the program and the version of what is installed."""

    def show(context: click.Context, _param: click.Parameter, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            from crossllm.cache.console.version import version_in_words

            click.echo(f"{context.command_path} {version_in_words()}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Print the version.",
    )
