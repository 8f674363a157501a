"""Random weights of the encoders' shapes, made on the spot, so that their tests need no file from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossllm.cache import Record
from crossllm.embed.encoder import Encoder, Loading
from crossllm.embed.encoders.language_model import Published
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.engine.transformer import expected_shapes
from crossllm.embed.weights.checkpoint import weights_digest


def random_tensors(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, Tensor]:
    """Scaled so that activations stay of order one; what must be positive is."""
    found = {}
    for name, shape in shapes.items():
        scale = 0.6 / np.sqrt(shape[-1]) if len(shape) > 1 and "embedding" not in name else 0.5
        values = rng.normal(size=shape) * scale
        if name.endswith("running_var"):
            values = np.abs(values) + 0.5
        elif "norm" in name and name.endswith("weight"):
            values += 1
        found[name] = torch.tensor(values, dtype=torch.float32)
    return found


def design_tensors(published: Published, rng: np.random.Generator) -> dict[str, Tensor]:
    """Random weights of a language model, in our own names, which every conversion leaves as they are."""
    return random_tensors(expected_shapes(published.design), rng)


def load(modality: str, name: str, weights: Path, batch_tokens: int = 16384, **recipe: object) -> Encoder:
    """The encoder over a file of weights."""
    info = ENCODERS[modality, name]
    settled = dataclasses.replace(info.recipe(weights_digest(weights)), **recipe)  # type: ignore[arg-type]
    return info.load(Loading((settled,), weights, batch_tokens=batch_tokens))


def rows_of(encoder: Encoder, records: Iterable[Record]) -> list[np.ndarray]:
    """The rows of each record, in the records' order; of an encoder of one output."""
    records = list(records)
    found = dict(encoder.encode(records))
    return [rows for record in records for (rows,) in [found[record.key]]]


def rnabert_shapes(layers: int = 6) -> dict[str, tuple[int, ...]]:
    """RNABERT's tensors in the names of its published safetensors."""
    width, inner = 120, 40
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (6, width),
        "embeddings.position_embeddings.weight": (440, width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    norms, linears = ["embeddings.layer_norm"], []
    for n in range(layers):
        layer = f"encoder.layer.{n}"
        linears += [(f"{layer}.attention.self.{part}", width, width) for part in ("query", "key", "value")]
        linears += [(f"{layer}.attention.output.dense", width, width)]
        linears += [(f"{layer}.intermediate.dense", width, inner), (f"{layer}.output.dense", inner, width)]
        norms += [f"{layer}.attention.output.layer_norm", f"{layer}.output.layer_norm"]
    for name, into, out in linears:
        found |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    return found | {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
