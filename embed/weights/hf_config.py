"""The `config.json` of a Hugging Face folder: refused where it describes another model than the encoder.

The tensors of such a folder say little of how they are computed with.  An ESM of the same sizes with learned positions,
or with another ε in its norms, has the same names, and its rows would be wrong without a word.  So the keys that change
a number are compared with the encoder's design; a key that is absent means what the library that wrote it takes then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crossllm.cache.errors import InputError, printable
from crossllm.embed.weights.shards import json_object

if TYPE_CHECKING:
    from crossllm.embed.engine.transformer import Design

Value = str | float | bool
_MAX_BYTES = 1 << 20
_SHOWN = 3
"""Keys named in an error, then the count of the rest."""
_WAYS = (
    "its rows would be another model's: correct config.json if that is wrong, else encode with the library that it is "
    "of, and `crossllm cache import` the rows"
)


class Config(NamedTuple):
    """What `config.json` says of a model."""

    model_type: str
    expected: Mapping[str, Value]
    """Key → the encoder's value, of every key that changes a number."""
    absent: Mapping[str, Value]
    """Key → what the library takes where it is absent or null.  No entry: then it changes nothing."""


def expected_of(design: Design, letters: int) -> dict[str, Value]:
    """The keys that all these libraries share; `letters` is the number of tokens of the form's alphabet."""
    return {
        "hidden_size": design.width,
        "num_hidden_layers": design.layers,
        "num_attention_heads": design.heads,
        "intermediate_size": design.inner,
        "vocab_size": letters,
        "hidden_act": "gelu",
        "layer_norm_eps": design.eps,
        "position_embedding_type": "rotary" if design.positions is None else "absolute",
        "token_dropout": design.token_factor != 1,
        "is_decoder": False,
    }


def refuse_other_config(weights: Path, name: str, config: Config) -> None:
    """Raise `InputError` where the `config.json` of the weights describes another model than encoder `name`.

    That of a folder must be of this model type.  That beside a file may belong to something else: it counts where it
    is of this type.  Where there is none, nothing is known and nothing refused.
    """
    path, is_folder = (weights if weights.is_dir() else weights.parent) / "config.json", weights.is_dir()
    if not path.exists():
        return
    try:
        found = json_object(path, _MAX_BYTES, "no model's is as large; copy or download it again")
    except InputError:
        if is_folder:
            raise
        return
    kind = found.get("model_type")
    if kind != config.model_type:
        if is_folder:
            said = "nothing" if kind is None else _shown(kind)
            raise InputError(
                f"--weights {weights}: config.json says model_type {said}, {config.model_type} is {name}'s; {_WAYS}"
            )
        return
    faults = _faults(found, name, config)
    if faults:
        more = f"; and {len(faults) - _SHOWN} more like these" if len(faults) > _SHOWN else ""
        where = "config.json" if is_folder else "config.json beside it"
        raise InputError(f"--weights {weights}: {where} says {'; '.join(faults[:_SHOWN])}{more}; {_WAYS}")


def _faults(found: Mapping[str, object], name: str, config: Config) -> list[str]:
    """`KEY VALUE, NAME has VALUE` for each key that differs."""
    faults = []
    for key, ours in config.expected.items():
        said = found.get(key)
        value = config.absent.get(key) if said is None else said
        if value is not None and value != ours:
            how = " (by leaving it out)" if said is None else ""
            faults.append(f"{key} {_shown(value)}{how}, {name} has {_shown(ours)}")
    return faults


def _shown(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))
