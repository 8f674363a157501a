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
        q_start, kv_start = queries.offsets[query_index].tolist(), others.offsets[other_index].tolist()
        shapes = torch.stack([queries.offsets.diff()[query_index], others.offsets.diff()[other_index]], 1).tolist()
        alike: dict[tuple[int, int], list[int]] = {}
        for pair, (own, other) in enumerate(shapes):
            alike.setdefault((own, other), []).append(pair)
        seen: dict[int, Tensor] = {}
        for (own, other), pairs in alike.items():  # pairs of equal lengths are computed in one call
            own_q = self._split(torch.stack([q[q_start[p] : q_start[p] + own] for p in pairs]))
            own_kv = torch.stack([kv[kv_start[p] : kv_start[p] + other] for p in pairs])
            key, value = (self._split(part) for part in own_kv.chunk(2, -1))
            mixed = F.scaled_dot_product_attention(own_q, key, value)
            seen |= zip(pairs, mixed.transpose(1, 2).flatten(2), strict=True)
        result: Tensor = self.out(torch.cat([seen[pair] for pair in range(len(shapes))]))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """(pairs, L, M) → (pairs, H, L, M / H)."""
        return x.view(*x.shape[:-1], self._heads, -1).transpose(1, 2)


def _pooled(norm: nn.Module, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> tuple[Tensor, Tensor]:
    """x̄_A and x̄_B of every pair, each entity pooled once."""
    mean_a, mean_b = (norm(segment_mean(side)) for side in (a, b))
    return mean_a[a_index.to(mean_a.device)], mean_b[b_index.to(mean_b.device)]
