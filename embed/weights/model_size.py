"""Weights of another size of the same family, the commonest mistake: told by width and layers, and named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from crossllm.cache.errors import InputError
from crossllm.embed.encoder import Loading
from crossllm.embed.encoders.registry import ENCODERS

if TYPE_CHECKING:
    from torch import Tensor

_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks)\.(\d+)\.")
_TOKENS = re.compile(r"(?:.*\.)?(?:embed_tokens|word_embeddings|embedding)\.weight")


class Size(NamedTuple):
    """Of a language model."""

    width: int
    layers: int


def size_of(found: Mapping[str, Tensor]) -> Size | None:
    """The size that tensors under published names have; None where they are no language model's."""
    layers = {int(match[1]) for name in found if (match := _LAYER.search(name))}
    tables = [tensor for name, tensor in found.items() if _TOKENS.fullmatch(name) and tensor.dim() == 2]
    widths = {table.shape[1] for table in tables}
    return Size(widths.pop(), len(layers)) if len(widths) == 1 and layers else None


def refuse_other_size(loading: Loading, found: Mapping[str, Tensor]) -> None:
    """Raise `InputError` where the tensors are those of another size of the encoder's family, and say which."""
    size, own = size_of(found), loading.recipe.encoder
    for info in ENCODERS.values():
        same_family = info.name.split("-")[0] == own.split("-")[0]
        if same_family and info.name != own and (info.dim, info.layers) == size:
            raise InputError(
                f"--weights {loading.weights}: these look like {info.name}: width {info.dim}, {info.layers} layers; "
                f"name `--encoder {info.name}`, or the weights of {own}"
            )
