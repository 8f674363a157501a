"""The sizes of the language models; weights of another size of the same family, the commonest mistake, are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from crossllm.cache.errors import InputError
from crossllm.embed.encoder import Loading

if TYPE_CHECKING:
    from torch import Tensor

_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks|mlstm)\.(\d+)\.")
_WIDE = re.compile(r"(?:.*\.)?(?:embed_tokens|word_embeddings|embedding)\.weight|mlstm\.0\.wmh")
"""Tensors whose second side is the model's width."""


class Size(NamedTuple):
    """Of a language model."""

    width: int
    layers: int
    heads: int
    """Of the attention; 0 where it has none."""


ESM2_SIZES = {
    "esm2-8m": Size(320, 6, 20),
    "esm2-35m": Size(480, 12, 20),
    "esm2-150m": Size(640, 30, 20),
    "esm2-650m": Size(1280, 33, 20),
    "esm2-3b": Size(2560, 36, 40),
    "esm2-15b": Size(5120, 48, 40),
}
RINALMO_SIZES = {
    "rinalmo-micro": Size(480, 12, 20),
    "rinalmo-mega": Size(640, 30, 20),
    "rinalmo-giga": Size(1280, 33, 20),
}
UNIREP_SIZES = {
    "unirep-64": Size(64, 4, 0),
    "unirep-256": Size(256, 4, 0),
    "unirep": Size(1900, 1, 0),
}
FAMILIES = (ESM2_SIZES, RINALMO_SIZES, UNIREP_SIZES)
"""Encoder → its published size, a table for each family that has several."""


def size_of(found: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Width and layers that tensors under published names have; None where they are no language model's."""
    layers = {int(match[1]) for name in found if (match := _LAYER.search(name))}
    tables = [tensor for name, tensor in found.items() if _WIDE.fullmatch(name) and tensor.dim() == 2]
    widths = {table.shape[1] for table in tables}
    return (widths.pop(), len(layers)) if len(widths) == 1 and layers else None


def refuse_other_size(loading: Loading, found: Mapping[str, Tensor]) -> None:
    """Raise `InputError` where the tensors are those of another size of the encoder's family, and say which."""
    size, own = size_of(found), loading.recipe.encoder
    family = next((sizes for sizes in FAMILIES if own in sizes), {})
    for name, (width, layers, _) in family.items():
        if name != own and (width, layers) == size:
            raise InputError(
                f"--weights {loading.weights}: these look like {name}: width {width}, {layers} layers; "
                f"name `--encoder {name}`, or the weights of {own}"
            )
