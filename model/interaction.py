"""The interaction model: two packed sets of frozen embeddings → one logit (or affinity) a pair.

Glossary, code → CrossLLM-Mamba (arXiv:2602.22236, method section):
    standardise_a   columns to mean 0 and deviation 1 over the training part (ours)
    project_a   X_A = W_A E_A + b_A + ε, ε ~ N(0, σ²) in training only
    encoder_a   X_A_enc = BiMamba(X_A)                         the same for B
    fusion      S = [X_A_enc ; X_B_enc], S_mixed = BiMamba(S), global mean pool; or another of `model/fusion.py`
    head        an MLP
Pairs that share an entity share its encoding: `encode_a` and `encode_b` run once on each distinct entity, and `fuse`
gathers them by pair.  All N × M pairs of two sets cost N + M encodings.

Shapes: T packed tokens, D width of a row, M model width, P pairs, S distinct entities of a side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from crossllm.model.batch import Batch, Packed
from crossllm.model.bimamba import BiMamba
from crossllm.model.fusion import ORDERS, Concat, CrossAttention, CrossMamba, Gated
from crossllm.model.standardise import Standardise

OTHER_FUSIONS: dict[str, Callable[[int], nn.Module]] = {
    "concat": Concat,
    "gated": Gated,
    "cross_attention": CrossAttention,
}
FUSIONS = ("cross_mamba", *OTHER_FUSIONS)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of an `InteractionModel`.  The paper's summary gives none of these numbers: defaults are ours.

    A field's metadata says what a user may set it to; `crossllm.pipeline.training.config` checks it.
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
    fusion: str = field(default="cross_mamba", metadata={"one_of": FUSIONS})
    """How two encoded partners become one vector (`model/fusion.py`)."""
    order: str = field(default="ab", metadata={"one_of": ORDERS})
    """Of the partners in S; `both` takes the mean of the two ways.  Cross-Mamba alone has an order."""


def joins_pairs(config: ModelConfig) -> bool:
    """Whether memory and work grow with the tokens of the pairs, not only with those of the distinct entities.

    One Cross-Mamba block works once an entity (`factored_mixing.py`), two or none do not; cross-attention looks at each
    pair.
    """
    return config.fusion == "cross_attention" or (config.fusion == "cross_mamba" and config.mixer_layers != 1)


class InteractionModel(nn.Module):
    """`forward(batch)` → (P,) logits or affinities: `encode_a`, `encode_b`, then `fuse`."""

    def __init__(self, dim_a: int, dim_b: int, config: ModelConfig, backend: str = "auto") -> None:
        super().__init__()
        width = config.d_model
        self.noise = config.noise
        kind = Standardise if config.standardise else nn.Identity
        self.standardise_a, self.standardise_b = kind(dim_a), kind(dim_b)
        self.project_a, self.project_b = nn.Linear(dim_a, width), nn.Linear(dim_b, width)

        def block() -> BiMamba:
            return BiMamba(width, config.d_state, config.bidirectional, backend)

        self.encoder_a, self.encoder_b = (
            nn.ModuleList(block() for _ in range(config.encoder_layers)) for _side in range(2)
        )
        self.fusion: nn.Module
        if config.fusion == "cross_mamba":
            self.fusion = CrossMamba(width, block, config.mixer_layers, config.order)
        else:
            self.fusion = OTHER_FUSIONS[config.fusion](width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, 1))

    def forward(self, batch: Batch) -> Tensor:
        """(P,) in the order of the batch's pairs."""
        return self.fuse(self.encode_a(batch.a), self.encode_b(batch.b), batch.a_index, batch.b_index)

    def encode_a(self, rows: Packed) -> Packed:
        """Standardising, projection, noise and BiMamba encoder of A entities, each on its own: (T, D_a) → (T, M)."""
        return self._encode(self.standardise_a, self.project_a, self.encoder_a, rows)

    def encode_b(self, rows: Packed) -> Packed:
        """The same for B entities: (T, D_b) → (T, M)."""
        return self._encode(self.standardise_b, self.project_b, self.encoder_b, rows)

    def fuse(self, a: Packed, b: Packed, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P,) logits or affinities of pairs of encoded entities.

        Args:
            a, b: what `encode_a` and `encode_b` gave.
            a_index, b_index: (P,) int64 on the CPU, which entity each pair has.
        """
        logit: Tensor = self.head(self.fusion(a, b, a_index, b_index))[:, 0]
        return logit

    def parameter_counts(self) -> dict[str, int]:
        """Parameters of each part, in the order of the path of data."""
        return {name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()}

    def _encode(self, standardise: nn.Module, project: nn.Linear, blocks: nn.ModuleList, rows: Packed) -> Packed:
        # The residual stream stays in float32 under autocast, as the parameters do.
        x: Tensor = project(standardise(rows.tokens.float())).to(project.weight.dtype)
        if self.training and self.noise > 0:
            x = x + self.noise * torch.randn_like(x)
        for block in blocks:
            x = block(x, rows.offsets)
        return Packed(x, rows.offsets)
