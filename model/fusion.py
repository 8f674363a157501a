"""How two encoded partners become one vector a pair: Cross-Mamba, and what it is compared with.

Every fusion is called with the encoded entities of both sides and, for each pair, which two it has:
`fusion(a, b, a_index, b_index)` → (P, M).  X_A, X_B are the encoded tokens of a pair, x̄ the mean over tokens.

    cross_mamba      S = [X_A ; X_B],  S_mixed = BiMamba(S),  s̄ = LN(mean S_mixed)
                     (CrossLLM-Mamba, arXiv:2602.22236; `order` puts B first, or takes the mean of both ways;
                     one block's mean costs the work of the entities, not of the pairs: `model/factored_mixing.py`)
    concat           W [x̄_A ; x̄_B], x̄ = LN(mean X): static concatenation, the baseline of that paper's ablation
    gated            g ⊙ x̄_A + (1 − g) ⊙ x̄_B,  g = σ(W [x̄_A ; x̄_B] + b)
                     (BioLLMNet, Brief Bioinform 2025;26:bbaf549)
    cross_attention  X_A' = X_A + MHA(LN X_A → LN X_B), X_B' likewise, then as concat
                     (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2)

Shapes: T packed tokens, M model width, P pairs, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossllm.model.batch import Packed, gather, join_pairs, segment_mean
from crossllm.model.bimamba import BiMamba
from crossllm.model.factored_mixing import is_cheaper, mixed_mean

HEADS = 4
"""Of cross-attention (not from a paper of this field); fewer where M is not a multiple of it."""


class CrossMamba(nn.Module):
    """The Cross-Mamba mixer over the joined sequence."""

    def __init__(self, width: int, block: Callable[[], BiMamba], layers: int, order: str) -> None:
        super().__init__()
        self.mixer = nn.ModuleList(block() for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self._order = order

    def forward(self, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P, M)."""
        ways = {"ab": (a, b, a_index, b_index), "ba": (b, a, b_index, a_index)}
        if self._order != "both":
            return self._mixed(*ways[self._order])
        return (self._mixed(*ways["ab"]) + self._mixed(*ways["ba"])) / 2

    def _mixed(self, first: Packed, second: Packed, first_index: Tensor, second_index: Tensor) -> Tensor:
        pairs = first, second, first_index, second_index
        only = self.mixer[0] if len(self.mixer) == 1 else None
        if isinstance(only, BiMamba) and only.takes_states(first.tokens) and is_cheaper(only, *pairs):
            mean = mixed_mean(only, *pairs)
        else:
            joined = join_pairs(*pairs)
            x, offsets = joined.tokens, joined.offsets
            for block in self.mixer:
                x = block(x, offsets)
            mean = segment_mean(Packed(x, offsets))
        pooled: Tensor = self.norm(mean)
        return pooled


class Concat(nn.Module):
    """Static concatenation: neither partner sees the other before the head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.join = nn.Linear(2 * width, width)

    def forward(self, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P, M)."""
        joined: Tensor = self.join(torch.cat(_pooled(self.norm, a, b, a_index, b_index), -1))
        return joined


class Gated(nn.Module):
    """A learnable gate chooses, feature by feature, between the two partners."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(2 * width, width)

    def forward(self, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P, M)."""
        mean_a, mean_b = _pooled(self.norm, a, b, a_index, b_index)
        g = torch.sigmoid(self.gate(torch.cat([mean_a, mean_b], -1)))
        return g * mean_a + (1 - g) * mean_b


class CrossAttention(nn.Module):
    """Each partner's tokens attend to the other's; the two directions have weights of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.a_to_b, self.b_to_a = _Attention(width), _Attention(width)
        self.concat = Concat(width)

    def forward(self, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P, M)."""
        norm_a, norm_b = (side._replace(tokens=self.norm(side.tokens)) for side in (a, b))
        seen_a = self.a_to_b(norm_a, norm_b, a_index, b_index)
        seen_b = self.b_to_a(norm_b, norm_a, b_index, a_index)
        pair_a, pair_b = gather(a, a_index), gather(b, b_index)
        each = torch.arange(len(a_index))
        pair_a, pair_b = (own._replace(tokens=own.tokens + seen) for own, seen in ((pair_a, seen_a), (pair_b, seen_b)))
        joined: Tensor = self.concat(pair_a, pair_b, each, each)
        return joined


class _Attention(nn.Module):
    """Multi-head attention from one partner's tokens to the other's, inside each pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._heads = math.gcd(width, HEADS)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Packed, others: Packed, query_index: Tensor, other_index: Tensor) -> Tensor:
        """(T, M): for every pair the tokens of its entity of `queries`, as they see its entity of `others`."""
        q = self.query(queries.tokens)  # each entity once, however many pairs it is in
        kv = self.key_value(others.tokens)
        q_start, kv_start = queries.offsets[query_index], others.offsets[other_index]
        own, other = queries.offsets.diff()[query_index], others.offsets.diff()[other_index]
        buckets: dict[tuple[int, int], list[int]] = {}
        for pair, shape in enumerate(zip(own.tolist(), other.tolist(), strict=True)):
            buckets.setdefault((_bucket(shape[0]), _bucket(shape[1])), []).append(pair)
        seen, places, ends = [], [], own.cumsum(0)
        for bucket in buckets.values():
            pairs = torch.tensor(bucket)
            rows, held = _padded(q_start[pairs], own[pairs])
            other_rows, other_held = _padded(kv_start[pairs], other[pairs])
            key, value = (self._split(part) for part in _take(kv, other_rows).chunk(2, -1))
            mask = None if bool(other_held.all()) else other_held[:, None, None].to(q.device)
            mixed = F.scaled_dot_product_attention(self._split(_take(q, rows)), key, value, attn_mask=mask)
            seen.append(mixed.transpose(1, 2).flatten(2)[held.to(q.device)])
            places.append(((ends - own)[pairs, None] + torch.arange(rows.shape[1]))[held])
        in_order = torch.cat(places).argsort().to(q.device)
        result: Tensor = self.out(torch.cat(seen).index_select(0, in_order))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """(pairs, L, M) → (pairs, H, L, M / H)."""
        return x.view(*x.shape[:-1], self._heads, -1).transpose(1, 2)


def _bucket(length: int) -> int:
    """Lengths that share a bucket are padded to the longest of them, which adds less than a quarter to any."""
    step = 1 << max(length.bit_length() - 3, 0)
    return -(-length // step) * step


def _padded(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (P, L) of stretches of tokens, the last one repeated up to the longest, and which of them are no repeats."""
    place = torch.arange(int(lengths.max()))
    return starts[:, None] + torch.minimum(place, lengths[:, None] - 1), place < lengths[:, None]


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """(T, M) → (P, L, M)."""
    return x.index_select(0, rows.flatten().to(x.device)).view(*rows.shape, -1)


def _pooled(norm: nn.Module, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> tuple[Tensor, Tensor]:
    """x̄_A and x̄_B of every pair, each entity pooled once."""
    mean_a, mean_b = (norm(segment_mean(side)) for side in (a, b))
    return mean_a[a_index.to(mean_a.device)], mean_b[b_index.to(mean_b.device)]
