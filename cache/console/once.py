"""Commands in which an option that takes one value is given once: click would lose all but the last in silence."""

from __future__ import annotations

from typing import Any

import click


class Command(click.Command):
    """A click command that refuses an option given twice, but for switches and those that may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, once the order of the options was looked at."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in order:
            one = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
            if one and order.count(parameter) > 1:
                name = max(parameter.opts, key=len)
                raise click.UsageError(f"{name}: is given twice, it takes one value; give it once.", ctx)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group whose commands are of the class above."""

    command_class: Any = Command
