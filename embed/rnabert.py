"""`rnabert`: RNABERT (Akiyama & Sakakibara, NAR Genom Bioinform 2022;4:lqac012), a BERT of six layers over nucleotides.

Tokens are the nucleotides alone: no CLS, no EOS.  Positions are learned and end at 440.  For x of one sequence:

    x  ← LN( letter + position + token type 0 )
    x  ← LN( x + O(softmax(q kᵀ / √10) v) )           twelve heads of ten
    x  ← LN( x + W₂ GELU(W₁ x) )                       GELU by erf; LN with ε = 10⁻¹²

A nucleotide attends to its own sequence (or window) and to nothing else.  The published code pads every sequence to 440
and attends to the padding; `attention=padded-440` does that, and gives its numbers.
Shapes: T packed tokens, L length, D width 120, H heads, K width of a head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.records import CERTAIN, Record
from embed.device import device_of
from embed.encoder import Loading
from embed.weights import load_tensors
from embed.windows import Window, by_budget, windows

PAD, MASK = 0, 1
LETTERS = "AUGC"
"""Token of a nucleotide: its place here, plus 2."""
_EPS = 1e-12
_TOKENS = np.full(128, MASK, np.int64)
_TOKENS[[ord(letter) for letter in LETTERS]] = np.arange(2, 6)
_UNUSED = r"pooler\..*|cls\..*"


class Shape(NamedTuple):
    """Sizes of the model; the published ones by default."""

    width: int = 120
    layers: int = 6
    heads: int = 12
    inner: int = 40
    positions: int = 440


class RnaBertEncoder:
    """Implements `embed.encoder.Encoder` for rna."""

    name = "rnabert"
    modality = "rna"
    dim = Shape().width
    limit: int | None = Shape().positions

    def __init__(self, loading: Loading) -> None:
        self._device = device_of(loading.device)
        self._weights = load_tensors(loading, expected_shapes(Shape()), _UNUSED, own_name, self._device)
        self._policy = loading.recipe.long
        self._padded = loading.recipe.options.get("attention") == "padded-440"
        self._batch_tokens = loading.batch_tokens
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, np.ndarray]]:
        """`(key, rows)`, rows (L, 120) float32."""
        for group in by_budget(records, self._batch_tokens):
            ambiguous = sum(not set(record.sequence) <= set(CERTAIN["rna"]) for record in group)
            if ambiguous:
                self.notes["with ambiguous letters, encoded as <mask>"] += ambiguous
            rows = [np.empty((record.length, self.dim), np.float32) for record in group]
            pieces = [(n, w) for n, record in enumerate(group) for w in windows(record.length, self._policy)]
            for batch in self._batches(pieces):
                ids = [_tokens(group[n].sequence[w.start : w.stop]) for n, w in batch]
                for (n, w), part in zip(batch, self._run(ids), strict=True):
                    rows[n][w.keep_from : w.keep_to] = part[w.keep_from - w.start : w.keep_to - w.start]
            yield from ((record.key, own) for record, own in zip(group, rows, strict=True))

    def _batches(self, pieces: list[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
        """The windows by length, so that equal ones are computed together, in batches of `batch_tokens`."""
        batch: list[tuple[int, Window]] = []
        total = 0
        for piece in sorted(pieces, key=lambda piece: piece[1].stop - piece[1].start):
            length = Shape().positions if self._padded else piece[1].stop - piece[1].start
            if batch and total + length > self._batch_tokens:
                yield batch
                batch, total = [], 0
            batch.append(piece)
            total += length
        yield batch

    def _run(self, ids: list[np.ndarray]) -> list[np.ndarray]:
        """(L, D) rows of each sequence of tokens."""
        lengths = [len(i) for i in ids]
        if self._padded:
            ids = [np.pad(i, (0, Shape().positions - len(i)), constant_values=PAD) for i in ids]
        with torch.inference_mode():
            packed = torch.from_numpy(np.concatenate(ids)).to(self._device)
            x = bert(packed, [len(i) for i in ids], self._weights, Shape()).cpu()
        parts = x.numpy()
        starts = np.cumsum([0, *(len(i) for i in ids)])
        return [parts[start : start + length] for start, length in zip(starts, lengths, strict=False)]


def expected_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that `bert` reads."""
    width, inner = shape.width, shape.inner

    def linear(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(LETTERS) + 2, width),
        "embeddings.position_embeddings.weight": (shape.positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **norm("embeddings.layer_norm"),
    }
    for n in range(shape.layers):
        layer = f"encoder.layer.{n}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.self.{part}", width, width)
        shapes |= linear(f"{layer}.attention.output.dense", width, width) | norm(f"{layer}.attention.output.layer_norm")
        shapes |= linear(f"{layer}.intermediate.dense", width, inner)
        shapes |= linear(f"{layer}.output.dense", inner, width) | norm(f"{layer}.output.layer_norm")
    return shapes


def own_name(name: str) -> str:
    """A tensor's name here, from its name in either published form: the authors' `.pth`, or safetensors."""
    name = re.sub(r"^(module\.)?(bert\.)?", "", name).replace(".selfattn.", ".self.")
    return name.replace("LayerNorm.gamma", "layer_norm.weight").replace("LayerNorm.beta", "layer_norm.bias")


def bert(ids: Tensor, lengths: Sequence[int], weights: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """Rows (T, D) of packed tokens `ids` (T,), the sequences of these lengths one after the other."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (shape.width,), weights[f"{name}.weight"], weights[f"{name}.bias"], _EPS)

    places = torch.cat([torch.arange(n, device=ids.device) for n in lengths])
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][places]
    x = norm("embeddings.layer_norm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for n in range(shape.layers):
        layer = f"encoder.layer.{n}"
        q, k, v = (linear(f"{layer}.attention.self.{p}", x) for p in ("query", "key", "value"))
        mixed = linear(f"{layer}.attention.output.dense", _attend(q, k, v, lengths, shape.heads))
        x = norm(f"{layer}.attention.output.layer_norm", x + mixed)
        inner = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.layer_norm", x + linear(f"{layer}.output.dense", inner))
    return x


def _attend(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    """(T, D): attention inside each sequence; neighbours of equal length are computed in one call."""
    out, start = [], 0
    for length, run in groupby(lengths):
        count = len(list(run))
        stop = start + count * length
        # (T, D) → (sequences, H, L, K)
        q_, k_, v_ = (t[start:stop].view(count, length, heads, -1).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q_, k_, v_)
        out.append(mixed.transpose(1, 2).reshape(stop - start, -1))
        start = stop
    return torch.cat(out)


def _tokens(sequence: str) -> np.ndarray:
    """(L,) int64; a letter that may stand for several is <mask>."""
    return _TOKENS[np.frombuffer(sequence.encode("ascii"), np.uint8)]
