"""`--option` and `--deterministic` of `embed run`: switches of an encoder; parsing only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from crossllm.cache.errors import InputError, printable
from crossllm.embed.encoder import FIXED, PRODUCTS


class KeyValue(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Key and value, or a usage error."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"'{printable(str(value))}' is not KEY=VALUE.", param, ctx)
        return key, text


def encoder_switches(command: Callable[..., Any]) -> Callable[..., Any]:
    """Both flags; the command gets switch → value as `options`."""

    @functools.wraps(command)
    def with_switches(*, options: tuple[tuple[str, str], ...], deterministic: bool, **asked: Any) -> Any:
        given = {*options, *([(PRODUCTS, FIXED)] if deterministic else ())}
        switches = dict(given)
        if len(switches) < len(given):
            raise InputError("--option: one switch is given two values; give it once")
        return command(options=switches, **asked)

    flags = (
        click.option(
            "--option",
            "options",
            type=KeyValue(),
            multiple=True,
            help="Switch of an encoder, e.g. attention=padded-440 for rnabert. Can be repeated.",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            help=f"Short for --option {PRODUCTS}={FIXED}: calls of one shape, so that rows depend neither on what is "
            "computed with them nor on the number of threads. Language models but UniRep, on the CPU.",
        ),
    )
    for flag in reversed(flags):
        with_switches = flag(with_switches)
    return with_switches
