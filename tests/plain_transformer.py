"""The equations of `embed.engine.transformer` as they stand: one sequence, float64, head by head, query by query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from crossllm.embed.engine.transformer import Design


def plain_rows(
    ids: Sequence[int], tensors: Mapping[str, Tensor], design: Design, layers: int | None = None
) -> np.ndarray:
    """(L, D) float64."""
    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + design.eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def attention(x: np.ndarray, layer: str) -> np.ndarray:
        q, k, v = (linear(x, f"{layer}.{part}") for part in ("query", "key", "value"))
        size = design.width // design.heads
        mixed = np.zeros_like(x)
        for head in range(design.heads):
            own = slice(head * size, (head + 1) * size)
            q_, k_ = (t[:, own] if design.positions else _turned(t[:, own]) for t in (q, k))
            for i in range(len(x)):
                score = k_ @ q_[i] / math.sqrt(size)
                share = np.exp(score - score.max())
                mixed[i, own] = share / share.sum() @ v[:, own]
        return linear(mixed, f"{layer}.out")

    def inner(x: np.ndarray, layer: str) -> np.ndarray:
        u = linear(x, f"{layer}.up")
        if design.gated:
            u = u / (1 + np.exp(-w[f"{layer}.beta"] * u)) * linear(x, f"{layer}.gate")
        else:
            u = u * 0.5 * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
        return linear(u, f"{layer}.down")

    x = w["tokens.weight"][list(ids)] * design.token_factor
    if design.kinds:
        x = x + w["kinds.weight"][0]
    if design.positions:
        x = x + w["positions.weight"][design.first_position : design.first_position + len(x)]
    if design.embed_norm:
        x = norm(x, "embed_norm")
    for n in range(design.layers if layers is None else layers):
        layer = f"layers.{n}"
        if design.order == "post":
            x = norm(x + attention(x, layer), f"{layer}.attention_norm")
            x = norm(x + inner(x, layer), f"{layer}.inner_norm")
        else:
            h = norm(x, f"{layer}.attention_norm")
            x = (h if design.order == "normed" else x) + attention(h, layer)
            x = x + inner(norm(x, f"{layer}.inner_norm"), layer)
    return norm(x, "final_norm") if design.final_norm and layers in (None, design.layers) else x


def _turned(x: np.ndarray) -> np.ndarray:
    """Each pair (x[i], x[i + K/2]) of the row at place m turned by m · 10000^(-2i/K), as complex numbers."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] * 10000.0 ** (-2 * np.arange(half) / x.shape[1])
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=1)
