"""What an encoder is, and what is known of one before it is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from crossllm.cache.errors import Conflict, InputError, printable
from crossllm.cache.records.record import Record

if TYPE_CHECKING:
    import numpy as np

    from crossllm.cache.store.recipe import Recipe

BATCH_TOKENS = 16384
"""Residues, nucleotides or atoms computed at once unless `--batch-tokens` says otherwise."""

RDKIT = "rdkit"
BFLOAT16 = "bfloat16"
PRODUCTS, FREE, FIXED = "products", "free", "fixed-256"
"""Switch of the language models, as their attention's: calls as they come, or of one shape (`--deterministic`)."""
AUTO = "auto"
"""Value of `--compute`; a recipe never holds it."""


class NotEncoded(NamedTuple):
    """Given in place of a record's rows where it could not be encoded; it is listed in `failed.tsv`."""

    reason: str


Outputs: TypeAlias = "tuple[np.ndarray, ...]"
"""Rows (L, D) of one record, an array for each of `Loading.recipes` and in their order."""


class Encoder(Protocol):
    """A frozen model: records in, `(key, outputs)` out."""

    name: str
    modality: str
    dim: int
    """Width of a row, D."""
    limit: int | None
    """Longest sequence it takes whole; None where there is no limit."""
    notes: Counter[str]
    """What its input lost on the way in → how many records; filled while it encodes."""

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        """`(key, outputs)` of each record, in any order, never to be zipped by position.

        Every record is computed once, whatever the number of outputs.  Each of them has the shape (L, D), L the length
        of the sequence, or what `Recipe.rows_of` says of it.
        """
        ...


class Loading(NamedTuple):
    """What a loader is told: the settled recipes, which say all that changes a number, and where and how to run."""

    recipes: tuple[Recipe, ...]
    """Of the outputs wanted, which are those of one pass: they differ in layer and storage type at most."""
    weights: Path | None = None
    device: str = "cpu"
    batch_tokens: int = BATCH_TOKENS

    @property
    def recipe(self) -> Recipe:
        """Any of them, for what they have in common."""
        return self.recipes[0]


@dataclass(frozen=True)
class EncoderInfo:
    """One line of `embed models`, and all of a recipe that is known before weights are read."""

    name: str
    modality: str
    dim: int
    licence: str
    """Of the weights."""
    load: Callable[[Loading], Encoder]
    """Makes the encoder."""
    version: int = 1
    """Raised whenever the encoder's own code changes a number."""
    tokenizer: str = "letters"
    """`RDKIT`: RDKit's reading of a molecule, which its version is part of."""
    limit: int | None = None
    overlap: int = 0
    """Of neighbouring windows of `limit` under `--long window`."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Switch → its values, the default first.  A default is not written into the recipe."""
    source: str = ""
    """Where its weights come from; empty where it has none."""
    layers: int = 0
    """Layers whose output can be asked for; 0: there is no choice."""
    computes: tuple[str, ...] = ("float32",)
    """Types its matrix products can be computed in, the default first."""
    rotary: bool = False
    """Whether sequences beyond `limit` can be encoded whole all the same."""

    def recipe(self, weights: str | None, layer: int | None = None) -> Recipe:
        """The recipe of a new cache when no other flag is given; `weights` is the SHA-256 of the file.

        Raises:
            InputError: the encoder has no such layer.
        """
        from crossllm.cache.store.recipe import Recipe

        if layer is not None and not 1 <= layer <= self.layers:
            has = f"layers 1 to {self.layers}" if self.layers else "one output, and no choice of layers"
            raise InputError(f"--layer {layer}: {self.name} has {has}; leave the flag out for the last")
        tokenizer = rdkit_version() if self.tokenizer == RDKIT else self.tokenizer
        named = None if layer in (None, self.layers) else str(layer)
        return Recipe(self.modality, self.name, self.version, self.dim, weights, named, tokenizer=tokenizer)

    def compute(
        self, asked: str | None, held: Sequence[Recipe], device: str, fastest: Callable[[], str] | None = None
    ) -> str:
        """The recipe's `compute`: as asked for, else as the cache has it, else the encoder's default.

        `auto` is what the device is fastest in, but it too follows the cache: the same command on
        another machine must not start another recipe.

        Args:
            asked: the flag.
            held: recipes of the cache, one of which may be followed.
            device: where the encoder will run.
            fastest: measures the type it is fastest in; None: bfloat16 where the device has it in hardware.

        Raises:
            InputError: the encoder does not compute in that type, or there is no such device.
            Conflict: the recipes held differ in it, and the flag does not say which.
        """
        found = {recipe.compute: recipe.folder_name for recipe in held}
        if asked not in (None, AUTO):
            chosen = str(asked)
        elif len(found) > 1:
            names = " and ".join(f"{folder} ({compute})" for compute, folder in sorted(found.items()))
            raise Conflict(f"--compute: the cache holds {names}; say which by --compute {' or '.join(sorted(found))}")
        elif found:
            chosen = next(iter(found))
        else:
            chosen = self.computes[0]
            if asked == AUTO and BFLOAT16 in self.computes:
                chosen = self._by_hardware(device) if fastest is None else fastest()
        if chosen not in self.computes:
            raise InputError(f"--compute {chosen}: {self.name} computes in {' or '.join(self.computes)}; name that")
        return chosen

    def _by_hardware(self, device: str) -> str:
        from crossllm.embed.engine.device import device_of, has_bfloat16

        return BFLOAT16 if has_bfloat16(device_of(device)) else self.computes[0]

    def policies(self) -> tuple[str, ...]:
        """Values of a recipe's `long` that this encoder can follow."""
        return tuple(self._policies().values())

    def _policies(self) -> dict[str, str]:
        """`--long` → the recipe's `long`."""
        if self.limit is None:
            return {"whole": "whole"}
        return {
            "whole": "whole",
            "window": f"window:{self.limit}:{self.overlap}",
            "truncate": f"truncate:{self.limit}",
        }

    def policy(self, long: str) -> str:
        """The recipe's `long` for `--long error`, `window`, `truncate` or `whole`.

        Raises:
            InputError: the encoder cannot follow it, or has no need to.
        """
        if long == "whole" and not (self.rotary or self.limit is None):
            raise InputError(f"--long whole: {self.name} has no positions beyond {self.limit}; use --long window")
        if long in ("window", "truncate") and self.limit is None:
            raise InputError(f"--long {long}: {self.name} takes sequences of any length whole; leave the flag out")
        return self._policies()["whole" if long == "error" else long]

    def resolved_options(self, asked: Mapping[str, str], held: Mapping[str, str]) -> dict[str, str]:
        """The recipe's `options`: what is asked for, else what the cache holds, else the default, which is left out.

        Raises:
            InputError: a switch or a value that this encoder does not have.
        """
        known = ", ".join(f"{key}={'|'.join(values)}" for key, values in self.options.items()) or "none"
        for key, value in asked.items():
            if value not in self.options.get(key, ()):
                flag = " (--deterministic)" if (key, value) == (PRODUCTS, FIXED) else ""
                said = printable(f"{key}={value}")
                raise InputError(f"--option: {self.name} has no '{said}'{flag}; it has: {known}")
        chosen = {key: asked.get(key, held.get(key, values[0])) for key, values in self.options.items()}
        return {key: value for key, value in chosen.items() if value != self.options[key][0]}


def rdkit_version() -> str:
    """`rdkit-2025.9.1`: another version may perceive, order or describe the atoms of a molecule otherwise."""
    from importlib import metadata

    try:
        version = metadata.version("rdkit")
    except metadata.PackageNotFoundError:  # built from source or by conda, which leave no metadata
        from rdkit import __version__ as version
    return "rdkit-" + ".".join(part.lstrip("0") or "0" for part in version.split("."))
