"""The packed transformer that every sequence model here runs on: no pads are stored, moved or computed.

The tokens of many sequences lie one after the other, `x` (T, D).  Linear layers see them all at once; attention stays
inside each sequence.  For one layer, with the norm before (ESM-2, RNA-FM):

    x ← x + O softmax(q kᵀ / √K) v        q, k, v = W LN(x), rotated by place where positions are rotary
    x ← x + W₂ f(W₁ LN(x))                f = GELU (erf), or the gate u · σ(βu) · g of SwiGLU, u, g = W₁ LN(x)

`order` moves the norm: `post` normalises the sum (BERT), `normed` goes on from LN(x), not x (RiNALMo's attention).
The running sum is float32 whatever the matrices are computed in, and so are the norms.

Sources: Vaswani et al. 2017 (arXiv 1706.03762); Su et al. 2021, rotary positions, equation 34 (arXiv 2104.09864);
Shazeer 2020, SwiGLU (arXiv 2002.05202).  Shapes: T packed tokens, D width, H heads, K = D / H, F inner width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embed import fused_cpu

Order = Literal["pre", "post", "normed"]


class Design(NamedTuple):
    """The sizes of a model, and in what it differs from others."""

    width: int
    layers: int
    heads: int
    inner: int
    letters: int
    """Tokens of its alphabet."""
    positions: int | None = None
    """Rows of the table of learned positions; None: rotary positions, and no limit."""
    first_position: int = 0
    """Row of the first token's position."""
    token_factor: float = 1.0
    """What the embedded tokens are multiplied by."""
    kinds: int = 0
    """Rows of the table of token types, of which every token takes the first."""
    order: Order = "pre"
    gated: bool = False
    """SwiGLU with a learned β."""
    attention_bias: bool = True
    embed_norm: bool = False
    """Whether the embedded tokens are normalised."""
    final_norm: bool = True
    eps: float = 1e-5
    """Of the norms."""


def expected_shapes(design: Design) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors of a model; `embed/esm2.py` and its neighbours give the published names."""
    width, inner = design.width, design.inner
    shapes: dict[str, tuple[int, ...]] = {"tokens.weight": (design.letters, width)}
    if design.positions is not None:
        shapes["positions.weight"] = (design.positions, width)
    if design.kinds:
        shapes["kinds.weight"] = (design.kinds, width)

    def linear(name: str, into: int, out: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    if design.embed_norm:
        norm("embed_norm")
    for n in range(design.layers):
        layer = f"layers.{n}"
        for part in ("query", "key", "value", "out"):
            linear(f"{layer}.{part}", width, width, design.attention_bias)
        norm(f"{layer}.attention_norm")
        linear(f"{layer}.up", width, inner)
        if design.gated:
            linear(f"{layer}.gate", width, inner)
            shapes[f"{layer}.beta"] = (1,)
        linear(f"{layer}.down", inner, width)
        norm(f"{layer}.inner_norm")
    if design.final_norm:
        norm("final_norm")
    return shapes


class Linear(NamedTuple):
    """A matrix in the type it is computed in, and its bias."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Norm(NamedTuple):
    """A layer norm, in float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Layer(NamedTuple):
    """One layer's tensors, the three of q, k, v and the two of a gate joined into one matrix each."""

    attention_norm: Norm
    qkv: Linear
    out: Linear
    inner_norm: Norm
    up: Linear
    """Of a gate: u, then g."""
    down: Linear
    beta: float | None
    """None without a gate."""


class Transformer:
    """A model ready to run.

    Args:
        tensors: as `expected_shapes` names them.
        design: of the model.
        compute: type of the matrix products, float32 or bfloat16.
        device: where it runs.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], design: Design, compute: torch.dtype, device: torch.device
    ) -> None:
        self.design, self._compute, self._device = design, compute, device

        def joined(*names: str) -> Linear:
            kinds = [kind for kind in ("weight", "bias") if f"{names[0]}.{kind}" in tensors]
            parts = [[tensors[f"{name}.{kind}"] for name in names] for kind in kinds]
            weight, *bias = (torch.cat(part).to(device, compute) for part in parts)
            return Linear(weight, bias[0] if bias else None)

        def norm(name: str) -> Norm:
            weight, bias = (tensors[f"{name}.{kind}"].to(device, torch.float32) for kind in ("weight", "bias"))
            return Norm(weight, bias, design.eps)

        def layer(name: str) -> Layer:
            up = [f"{name}.up", f"{name}.gate"] if design.gated else [f"{name}.up"]
            return Layer(
                norm(f"{name}.attention_norm"),
                joined(*(f"{name}.{part}" for part in ("query", "key", "value"))),
                joined(f"{name}.out"),
                norm(f"{name}.inner_norm"),
                joined(*up),
                joined(f"{name}.down"),
                float(tensors[f"{name}.beta"]) if design.gated else None,
            )

        tokens = tensors["tokens.weight"].to(device, torch.float32) * design.token_factor
        self._tokens = tokens + tensors["kinds.weight"][0].to(tokens) if design.kinds else tokens
        learned = tensors.get("positions.weight")
        self._positions = None if learned is None else learned.to(device, torch.float32)
        self._embed_norm = norm("embed_norm") if design.embed_norm else None
        self._layers = [layer(f"layers.{n}") for n in range(design.layers)]
        self._final_norm = norm("final_norm") if design.final_norm else None

    @torch.inference_mode()
    def rows(self, ids: Tensor, lengths: Sequence[int], layer: int | None = None) -> Tensor:
        """(T, D) float32: the output for packed tokens `ids` (T,), the sequences of these lengths one after the other.

        Args:
            ids: int64, specials included.
            lengths: of the sequences; each at least 1.
            layer: output of this layer, counted from 1, before the final norm unless it is the last; None: the last.
        """
        if ids.device.type == "cpu":
            fused_cpu.use_threads()
        packing = Packing.of(lengths, self.design, ids.device)
        x = self._tokens[ids]
        if self._positions is not None:
            x = x + self._positions[packing.places + self.design.first_position]
        if self._embed_norm is not None:
            x = self._embed_norm(x)
        last = self.design.layers if layer is None else layer
        x = self._through(x, self._layers[:last], packing)
        return self._final_norm(x) if self._final_norm is not None and last == self.design.layers else x

    def _through(self, x: Tensor, layers: Sequence[Layer], packing: Packing) -> Tensor:
        """(T, D) → (T, D): `h`, what the next matrix reads, is in the type of the products; the sum `x` is float32."""
        order, added = self.design.order, None
        h = x.to(self._compute)
        for layer in layers:
            if order != "post":
                x, h = self._add_norm(x, added, layer.attention_norm, order == "normed")
            added = layer.out(packing.attend(layer.qkv(h), self.design.heads))
            if order == "post":
                x, h = self._add_norm(x, added, layer.attention_norm, True)
            else:
                x, h = self._add_norm(x, added, layer.inner_norm, False)
            added = layer.down(_activated(layer.up(h), layer.beta))
            if order == "post":
                x, h = self._add_norm(x, added, layer.inner_norm, True)
                added = None
        return x if added is None else x + added

    def _add_norm(self, x: Tensor, added: Tensor | None, norm: Norm, onward: bool) -> tuple[Tensor, Tensor]:
        """The new sum, and its norm in the type of the products; with `onward` the norm is the new sum."""
        if added is not None and added.dtype == torch.bfloat16 and added.device.type == "cpu":
            return x, fused_cpu.add_norm(x, added, norm.weight, norm.bias, norm.eps, onward)
        x = x if added is None else x + added
        h = norm(x)
        return h if onward else x, h.to(self._compute)


def _activated(u: Tensor, beta: float | None) -> Tensor:
    """(T, F): GELU of u, or the gated half of (T, 2 F)."""
    if beta is None:
        return F.gelu(u)
    u, g = u.chunk(2, dim=-1)
    swish = F.silu(u) if beta == 1.0 else u * torch.sigmoid(beta * u)
    return swish * g


class Packing(NamedTuple):
    """Where the sequences of a batch lie."""

    lengths: tuple[int, ...]
    places: Tensor
    """(T,) each token's place in its sequence, from 0."""
    rotation: tuple[Tensor, Tensor] | None
    """Cosine and sine, (T, K / 2), of rotary positions."""

    @classmethod
    def of(cls, lengths: Sequence[int], design: Design, device: torch.device) -> Packing:
        """The packing of sequences of these lengths."""
        places = torch.cat([torch.arange(n, device=device) for n in lengths])
        rotation = None
        if design.positions is None:
            width = design.width // design.heads
            speeds = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
            angles = places[:, None] * speeds
            rotation = angles.cos(), angles.sin()
        return cls(tuple(lengths), places, rotation)

    def attend(self, qkv: Tensor, heads: int) -> Tensor:
        """(T, 3 D) → (T, D): attention inside each sequence; neighbours of equal length are computed in one call."""
        qkv = qkv.view(len(qkv), 3, heads, -1)
        if self.rotation is not None:
            (fused_cpu.rotate if qkv.device.type == "cpu" else rotate)(qkv, *self.rotation)
        out = torch.empty_like(qkv[:, 0])
        start = 0
        for length, run in groupby(self.lengths):
            count = len(list(run))
            stop = start + count * length
            # (T, 3, H, K) → three of (sequences, H, L, K)
            q, k, v = qkv[start:stop].view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v)
            out[start:stop] = mixed.transpose(1, 2).reshape(stop - start, heads, -1)
            start = stop
        return out.view(len(out), -1)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn q and k of (T, 3, H, K) in place: each pair (x[i], x[i + K/2]) by its angle; `cos` and `sin` (T, K / 2)."""
    both, half = qkv[:, :2], qkv.shape[-1] // 2
    a, b = both[..., :half].float(), both[..., half:].float()
    cos, sin = cos[:, None, None], sin[:, None, None]
    both[:] = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)  # a and b may be views of it
