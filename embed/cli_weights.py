"""`embed models|pull`: which encoders there are, and their weights; parsing and printing only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossllm.cache.cli_flags import PathName, json_option, quiet_option
from crossllm.cache.console.messages import note, say, size_in_words
from crossllm.cache.console.once import Command
from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.modality import UNITS

if TYPE_CHECKING:
    from crossllm.embed.encoder import EncoderInfo


class Sha256(click.ParamType[str]):
    """64 hex digits."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The digits in lower case, or a usage error."""
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", str(value)):
            self.fail(f"'{printable(str(value))}' is no SHA-256; write its 64 hex digits.", param, ctx)
        return str(value).lower()


@click.command(
    "models",
    cls=Command,
    short_help="List the encoders, and whether their weights are at hand.",
    examples=(
        "embed models",
        "embed models --json",
    ),
)
@json_option
def models_command(as_json: bool) -> None:
    """List the encoders: size, width, limit, licence, and whether their weights are at hand."""
    from crossllm.embed.encoders.registry import ENCODERS

    rows = [_row(info) for info in ENCODERS.values()]
    if as_json:
        click.echo(json.dumps({"encoders": rows}, indent=1))
        return
    heads = ("modality", "encoder", "parameters", "width", "layers", "limit", "download", "weights' licence", "weights")
    table = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        right = {2, 3, 4, 6}
        padded = (c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True)))
        say("  ".join(padded).rstrip())
    say("* taken when --encoder is not given.  Longer than the limit: `embed run --long`.")


def _row(info: EncoderInfo) -> dict[str, Any]:
    """One encoder, as `--json` has it."""
    from crossllm.embed.encoders.registry import DEFAULT_ENCODER
    from crossllm.embed.weights.published import PUBLISHED, local_weights, unchecked_weights

    file = PUBLISHED.get(info.name) if info.source else None
    at_hand = local_weights(info.name) if file else None
    unchecked = unchecked_weights(info.name) if file else None
    return {
        "modality": info.modality,
        "encoder": info.name,
        "default": DEFAULT_ENCODER[info.modality] == info.name,
        "parameters": file.parameters if file else None,
        "dim": info.dim,
        "layers": info.layers or None,
        "limit": info.limit,
        "unit": UNITS[info.modality],
        "licence": info.licence,
        "bytes": file.size if file else None,
        "bytes_exact": file.exact if file else None,
        "download": file.download if file else None,
        "source": info.source or None,
        "url": file.url if file else None,
        "pin": file.pin if file else None,
        "needs_weights": bool(info.source),
        "weights": str(at_hand) if at_hand else None,
        "unchecked": str(unchecked) if unchecked else None,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The same as text; `weights` says where they are, or what is to be done."""
    about = "" if row["bytes_exact"] else "~"
    return (
        row["modality"],
        row["encoder"] + "*" * row["default"],
        "none" if row["parameters"] is None else f"{row['parameters']:,}",
        str(row["dim"]),
        str(row["layers"] or "-"),
        "none" if row["limit"] is None else f"{row['limit']} {row['unit']}",
        "-" if row["download"] is None else about + size_in_words(row["download"]),
        row["licence"],
        _weights(row),
    )


def _weights(row: dict[str, Any]) -> str:
    """Where an encoder's weights are, or what is to be done."""
    if not row["needs_weights"]:
        return "none needed"
    if row["unchecked"]:
        return f"not checked: {row['unchecked']} (embed pull {row['encoder']} checks it)"
    return row["weights"] or "needs weights"


@click.command(
    "pull",
    cls=Command,
    short_help="Fetch an encoder's published weights, and check them.",
    examples=(
        "embed pull esm2-650m",
        "embed pull rinalmo --to weights",
    ),
)
@click.argument("name")
@click.option(
    "--to",
    "folder",
    type=PathName(file_okay=False),
    default=None,
    help="Folder for the file. Default: $CROSSLLM_WEIGHTS/NAME, else ~/.cache/crossllm/weights/NAME, where `embed run` "
    "looks for it.",
)
@click.option("--url", default=None, help="A mirror to take the file from; it is held to the same digest.")
@click.option("--sha256", type=Sha256(), default=None, help="SHA-256 of the file, where its source states none.")
@quiet_option
@json_option
def pull_command(
    name: str, folder: Path | None, url: str | None, sha256: str | None, quiet: bool, as_json: bool
) -> None:
    """Fetch an encoder's published weights, check them, and keep them where `embed run` finds them."""
    from crossllm.embed.encoders.registry import ENCODERS

    known = {info.name: info for info in ENCODERS.values()}
    if name not in known:
        raise InputError(f"embed pull: '{printable(name)}' is not an encoder; one of: {', '.join(known)}")
    info = known[name]
    if not info.source:
        raise InputError(f"embed pull: {name} has no weights; run `embed run --encoder {name}`")
    from crossllm.embed.weights.pull import ask, pull

    asked = ask(name, url, folder, sha256)
    note(f"note: {name}: licence of the weights: {info.licence}")
    done = pull(asked, quiet)
    if as_json:
        told = {"path": str(done.path), "licence": info.licence, "url": asked.file.url}
        click.echo(json.dumps(done._asdict() | told))
        return
    was = "fetched" if done.downloaded else "already there, checked"
    named = "" if folder is None else f" --weights {done.path}"
    say(
        f"{name}: {was}: {done.path} ({done.bytes:,} bytes)",
        f"SHA-256 {done.sha256} {_trust(done.checked)}",
        f"next: embed run --modality {info.modality} --encoder {name}{named} --input FILE",
    )


def _trust(checked: str) -> str:
    """What a digest was held to, in words."""
    known = {
        "sha256": "as its source states",
        "--sha256": "as asked",
        "md5": "(its MD5 is the one its source states); kept beside it and compared from now on",
        "git": "(its git blob is the one of its repository); kept beside it and compared from now on",
        "kept": "as kept beside it",
    }
    return known.get(checked, "seen for the first time; kept beside it and compared from now on")
