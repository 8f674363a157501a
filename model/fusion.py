"""Cross-Mamba: two packed sets of frozen embeddings → one logit (or affinity) a pair.

Glossary, code → CrossLLM-Mamba (arXiv:2602.22236, method section):
    standardise_a   columns to mean 0 and deviation 1 over the training part (ours)
    project_a   X_A = W_A E_A + b_A + ε, ε ~ N(0, σ²) in training only
    encoder_a   X_A_enc = BiMamba(X_A)                         the same for B
    join_pairs  S = [X_A_enc ; X_B_enc] along the sequence
    mixer       S_mixed = BiMamba(S)
    head        global mean pool over S_mixed, then an MLP
Pairs that share an entity share its encoding: the encoders run once on each distinct entity of a batch and
`join_pairs` gathers them by pair.

Shapes: T packed tokens, D width of a row, M model width, P pairs, S distinct entities of a side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.bimamba import BiMamba

STANDARD_BOUND = 10.0
"""Largest standardised value, in deviations."""


class Batch(NamedTuple):
    """Pairs of a step, each distinct entity once."""

    a_rows: Tensor
    """(T_a, D_a) tokens of the distinct A entities, one after the other."""
    a_offsets: Tensor
    """(S_a + 1,) int64 on the CPU."""
    b_rows: Tensor
    """(T_b, D_b)."""
    b_offsets: Tensor
    """(S_b + 1,) int64 on the CPU."""
    a_index: Tensor
    """(P,) int64 on the CPU: which A entity each pair has."""
    b_index: Tensor
    """(P,) int64 on the CPU."""
    label: Tensor
    """(P,) float32."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its rows and labels on a device; offsets and indices stay on the CPU."""
        return self._replace(a_rows=self.a_rows.to(device), b_rows=self.b_rows.to(device), label=self.label.to(device))


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a `CrossMamba`.  The paper's summary gives none of these numbers: defaults are ours.

    A field's metadata says what a user may set it to; `pipeline.config` checks it.
    """

    d_model: int = field(default=32, metadata={"range": (1, 4096)})
    """Width M of projections, encoders and mixer (not from the paper)."""
    d_state: int = field(default=16, metadata={"range": (1, 256)})
    """State N of the scan (the Mamba paper's default)."""
    encoder_layers: int = field(default=1, metadata={"range": (0, 64)})
    """BiMamba blocks a modality encoder stacks (not from the paper)."""
    mixer_layers: int = field(default=1, metadata={"range": (0, 64)})
    """BiMamba blocks of the Cross-Mamba mixer (not from the paper)."""
    noise: float = field(default=0.1, metadata={"range": (0.0, 1e3)})
    """Standard deviation σ of ε, added to the projections in training (not from the paper)."""
    dropout: float = field(default=0.1, metadata={"range": (0.0, 0.99)})
    """In the head (not from the paper)."""
    standardise: bool = True
    """Scale each column of the tokens to mean 0 and deviation 1 over the training part first (not from the paper)."""
    bidirectional: bool = True
    """False leaves out every backward scan: an ablation."""


class Moments(NamedTuple):
    """Of each column of one side's tokens, over the training part."""

    mean: Tensor
    """(D,) float32."""
    std: Tensor
    """(D,) float32; 0 for a constant column."""


class Standardise(nn.Module):
    """(x − mean) / std by column, clamped: a column that the training part hardly knows must not drown the others.

    The moments are buffers, so that a checkpoint holds them; until `fit` they are 0 and 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, moments: Moments) -> None:
        """Take the training part's moments; a constant column is only centred."""
        self.mean.copy_(moments.mean)
        self.scale.copy_(torch.where(moments.std > 0, 1 / moments.std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) → (T, D)."""
        return torch.clamp((x - self.mean) * self.scale, -STANDARD_BOUND, STANDARD_BOUND)


class CrossMamba(nn.Module):
    """The fusion model: `forward(batch)` → (P,) logits or affinities."""

    def __init__(self, dim_a: int, dim_b: int, config: ModelConfig, backend: str = "auto") -> None:
        super().__init__()
        width = config.d_model
        self.noise = config.noise
        kind = Standardise if config.standardise else nn.Identity
        self.standardise_a, self.standardise_b = kind(dim_a), kind(dim_b)
        self.project_a, self.project_b = nn.Linear(dim_a, width), nn.Linear(dim_b, width)

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(BiMamba(width, config.d_state, config.bidirectional, backend) for _ in range(count))

        self.encoder_a, self.encoder_b = blocks(config.encoder_layers), blocks(config.encoder_layers)
        self.mixer = blocks(config.mixer_layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, 1))

    def forward(self, batch: Batch) -> Tensor:
        """(P,) in the order of the batch's pairs."""
        a = self.encode(self.project_a, self.encoder_a, self.standardise_a(batch.a_rows.float()), batch.a_offsets)
        b = self.encode(self.project_b, self.encoder_b, self.standardise_b(batch.b_rows.float()), batch.b_offsets)
        mixed, offsets = join_pairs(a, batch.a_offsets, batch.a_index, b, batch.b_offsets, batch.b_index)
        for block in self.mixer:
            mixed = block(mixed, offsets)
        pooled = segment_mean(self.norm(mixed), offsets)  # (P, M)
        logit: Tensor = self.head(pooled)[:, 0]
        return logit

    def encode(self, project: nn.Module, blocks: nn.ModuleList, rows: Tensor, offsets: Tensor) -> Tensor:
        """Projection, noise and BiMamba encoder of one side's distinct entities: (T, D) → (T, M)."""
        x: Tensor = project(rows)
        if self.training and self.noise > 0:
            x = x + self.noise * torch.randn_like(x)
        for block in blocks:
            x = block(x, offsets)
        return x


def join_pairs(
    a: Tensor, a_offsets: Tensor, a_index: Tensor, b: Tensor, b_offsets: Tensor, b_index: Tensor
) -> tuple[Tensor, Tensor]:
    """S = [A ; B] of every pair, packed: (T, M) and its offsets (P+1,).

    A pair's tokens are the A entity's, then the B entity's.
    """
    starts = torch.stack([a_offsets[a_index], len(a) + b_offsets[b_index]], 1).reshape(-1)
    lengths = torch.stack([a_offsets.diff()[a_index], b_offsets.diff()[b_index]], 1).reshape(-1)
    ends = lengths.cumsum(0)
    source = torch.arange(int(ends[-1])) + torch.repeat_interleave(starts - (ends - lengths), lengths)
    joined = torch.cat([a, b]).index_select(0, source.to(a.device))
    offsets = torch.cat([ends.new_zeros(1), ends[1::2]])
    return joined, offsets


def segment_mean(x: Tensor, offsets: Tensor) -> Tensor:
    """Mean of each sequence's tokens: (T, M) → (S, M)."""
    lengths = offsets.diff().to(x.device)
    return torch.segment_reduce(x, "mean", lengths=lengths, axis=0, unsafe=True)
