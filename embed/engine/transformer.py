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

from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from crossllm.embed.engine import fused_cpu
from crossllm.embed.engine.attention import Attention, Packing, choose
from crossllm.embed.engine.elementwise import Norm, elementwise_of
from crossllm.embed.engine.fixed import BY_SEQUENCE, FixedProduct, fixed
from crossllm.embed.engine.linear import Linear, Packed, packed

Product = Linear | Packed | FixedProduct
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
    """Name → shape of the tensors of a model; `embed/encoders/esm2.py` and its neighbours give the published names."""
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


class Layer(NamedTuple):
    """One layer's tensors, the three of q, k, v and the two of a gate joined into one matrix each."""

    attention_norm: Norm
    qkv: Product
    out: Product
    inner_norm: Norm
    up: Product
    """Of a gate: u, then g."""
    down: Product
    beta: float | None
    """None without a gate."""


class Transformer:
    """A model ready to run.

    Args:
        tensors: as `expected_shapes` names them.  They are taken out one after the other, each converted and let go, so
            that no second copy of the model lies in memory beside the first.
        design: of the model.
        compute: type of the matrix products, float32 or bfloat16.
        device: where it runs.
        attention: None: the fastest there.
        fixed_shape: whether rows are not to depend on what is computed with them, nor on the number of threads; only
            on the CPU.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        design: Design,
        compute: torch.dtype,
        device: torch.device,
        attention: Attention | None = None,
        fixed_shape: bool = False,
    ) -> None:
        self.design, self._compute = design, compute
        width = design.width // design.heads
        fastest = BY_SEQUENCE if fixed_shape else choose(device, compute, design.heads, width)
        self.attention = attention or fastest
        form: Callable[[Linear], Product] = fixed if fixed_shape else packed
        self._rotary = width if design.positions is None else None
        self._elementwise = elementwise_of(device)

        def taken(name: str, kind: torch.dtype) -> Tensor:
            return tensors.pop(name).to(device, kind, copy=True)

        def joined(*names: str) -> Product:
            return form(Linear(stacked([f"{name}.weight" for name in names]), bias_of(names)))

        def bias_of(names: Sequence[str]) -> Tensor | None:
            return stacked([f"{name}.bias" for name in names]) if f"{names[0]}.bias" in tensors else None

        def stacked(names: Sequence[str]) -> Tensor:
            """One matrix of several, each converted on its way into it."""
            if len(names) == 1:
                return taken(names[0], compute)
            rows = [len(tensors[name]) for name in names]
            whole = torch.empty((sum(rows), *tensors[names[0]].shape[1:]), dtype=compute, device=device)
            for name, part in zip(names, torch.split(whole, rows), strict=True):
                part.copy_(tensors.pop(name))
            return whole

        def norm(name: str) -> Norm:
            weight, bias = (taken(f"{name}.{kind}", torch.float32) for kind in ("weight", "bias"))
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
                float(tensors.pop(f"{name}.beta")) if design.gated else None,
            )

        tokens = taken("tokens.weight", torch.float32) * design.token_factor
        self._tokens = tokens + taken("kinds.weight", torch.float32)[0] if design.kinds else tokens
        self._positions = None if design.positions is None else taken("positions.weight", torch.float32)
        self._embed_norm = norm("embed_norm") if design.embed_norm else None
        self._layers = [layer(f"layers.{n}") for n in range(design.layers)]
        self._final_norm = norm("final_norm") if design.final_norm else None

    @torch.inference_mode()
    def rows(self, ids: Tensor, lengths: Sequence[int], layers: Sequence[int] = ()) -> list[Tensor]:
        """(T, D) float32 of each layer asked for: the output for packed tokens `ids` (T,), sequence after sequence.

        Args:
            ids: int64, specials included, on the model's device.
            lengths: of the sequences; each at least 1.
            layers: whose output is wanted, counted from 1; that of the last has gone through the final norm.  The
                model runs once, to the deepest of them.  None named: the last.
        """
        layers = layers or [self.design.layers]
        if ids.device.type == "cpu":
            fused_cpu.use_threads()
        packing = Packing.of(lengths, ids.device, self._rotary, self.attention.padding)
        x = self._tokens[ids]
        if self._positions is not None:
            x = x + self._positions[packing.places + self.design.first_position]
        if self._embed_norm is not None:
            x = self._embed_norm(x)
        found = self._through(x, packing, layers)
        if self._final_norm is not None and self.design.layers in found:
            found[self.design.layers] = self._final_norm(found[self.design.layers])
        return [found[layer] for layer in layers]

    def _through(self, x: Tensor, packing: Packing, wanted: Collection[int]) -> dict[int, Tensor]:
        """Layer → its output (T, D), of those wanted.

        `h`, what the next matrix reads, is in the type of the products; the sum `x` is float32.
        """
        found: dict[int, Tensor] = {}
        order, compute, added = self.design.order, self._compute, None
        _, add_norm, gate = self._elementwise
        h = x.to(compute)
        deepest = max(wanted)
        for number, layer in enumerate(self._layers[:deepest], 1):
            if order != "post":
                x, h = add_norm(x, added, layer.attention_norm, order == "normed", compute)
            added = layer.out(self._attend(layer.qkv(h), packing))
            if order == "post":
                x, h = add_norm(x, added, layer.attention_norm, True, compute)
            else:
                x, h = add_norm(x, added, layer.inner_norm, False, compute)
            inner = layer.up.gelu(h) if layer.beta is None else gate(layer.up(h), layer.beta)
            added = layer.down(inner)
            if order == "post":
                x, h = add_norm(x, added, layer.inner_norm, True, compute)
                added = None
            if number in wanted:
                found[number] = x if added is None else x + added
                if added is None and number < deepest:
                    found[number] = x.clone()  # the next layer may write into x itself
        return found

    def _attend(self, qkv: Tensor, packing: Packing) -> Tensor:
        """(T, 3 D) → (T, D): attention inside each sequence."""
        qkv = qkv.view(len(qkv), 3, self.design.heads, -1)
        if packing.rotation is not None:
            self._elementwise.rotate(qkv, *packing.rotation)
        return self.attention.attend(qkv, packing).flatten(1)
