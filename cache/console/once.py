"""Commands in which an option that takes one value is given once: click would lose all but the last in silence.

Every one has `--version`, and says which flag a path that stands alone is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crossllm.cache.errors import printable


class Command(click.Command):
    """A click command that refuses an option given twice, but for switches and those that may be repeated."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(_version())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, once the order of the options was looked at."""
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


class Group(click.Group):
    """A group whose commands are of the class above."""

    command_class: Any = Command

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(_version())


def _version() -> click.Option:
    """`--version`, in every command and group: the program and the version of what is installed."""

    def show(context: click.Context, _param: click.Parameter, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            from importlib.metadata import PackageNotFoundError, version

            try:
                found = version("crossllm-mamba")
            except PackageNotFoundError:
                found = "of a checkout that is not installed"
            click.echo(f"{context.command_path} {found}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Print the version.",
    )
