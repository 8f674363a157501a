"""What an encoder is, and the table of those there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cache.errors import InputError, printable
from cache.recipe import Recipe
from cache.records import Record


class Encoder(Protocol):
    """A frozen model: records in, `(key, rows)` out."""

    name: str
    modality: str
    dim: int
    """Width of a row, D."""
    limit: int | None
    """Longest sequence it takes whole; None where there is no limit."""

    def recipe(self) -> Recipe:
        """Everything that changes a number."""
        ...

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, np.ndarray]]:
        """`(key, rows)` of each record, rows of shape (len(sequence), D); never to be zipped by position."""
        ...


@dataclass(frozen=True)
class EncoderInfo:
    """One line of `embed models`."""

    name: str
    modality: str
    dim: int
    licence: str
    """Of the weights."""
    load: Callable[[], Encoder] | None
    """Makes the encoder; None where this version cannot run it yet."""


def _load_profile(modality: str) -> Encoder:
    from embed.profile import ProfileEncoder

    return ProfileEncoder(modality)


_NO_WEIGHTS = "none needed"
ENCODERS: dict[tuple[str, str], EncoderInfo] = {
    (info.modality, info.name): info
    for info in (
        EncoderInfo("profile", "rna", 57, _NO_WEIGHTS, lambda: _load_profile("rna")),
        EncoderInfo("profile", "protein", 108, _NO_WEIGHTS, lambda: _load_profile("protein")),
        EncoderInfo("rinalmo-giga", "rna", 1280, "Apache-2.0 / CC BY 4.0", None),
        EncoderInfo("esm2-650m", "protein", 1280, "MIT", None),
    )
}
"""(modality, name) → how to make the encoder."""
DEFAULT_ENCODER = {"rna": "rinalmo-giga", "protein": "esm2-650m"}
"""The language model of each modality, taken when `--encoder` is not given."""


def load_encoder(modality: str, name: str | None, weights: Path | None) -> Encoder:
    """The encoder of this name, or the modality's language model where none is named.

    Raises:
        InputError: there is no such encoder, it takes no weights, or its weights are not at hand.
    """
    chosen = name or DEFAULT_ENCODER[modality]
    info = ENCODERS.get((modality, chosen))
    if info is None:
        names = ", ".join(n for m, n in ENCODERS if m == modality)
        raise InputError(f"--encoder: '{printable(chosen)}' is not an encoder for {modality}; one of: {names}")
    if info.load is not None:
        if weights is not None:
            raise InputError(f"--weights: {chosen} has no weights; leave the flag out")
        return info.load()
    if weights is not None:
        raise InputError(
            f"--weights {weights}: this version cannot run {chosen} yet (docs/known_issues.md); use --encoder profile"
        )
    default = "" if name else f", the default for {modality}"
    raise InputError(
        f"no weights at hand for {chosen}{default}; three ways on: fetch them with `embed pull {chosen}`, name them "
        f"with `--weights PATH`, or use `--encoder profile`, which needs none (in this version only the third runs)"
    )
