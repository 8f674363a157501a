"""The interaction model: two packed sets of frozen embeddings → one logit (or affinity) a pair.

Glossary, code → CrossLLM-Mamba (arXiv:2602.22236, method section):
    standardise_a   columns to mean 0 and deviation 1 over the training part (ours)
    project_a   X_A = W_A E_A + b_A + ε, ε ~ N(0, σ²) in training only
    encoder_a   X_A_enc = BiMamba(X_A)                         the same for B
    fusion      S = [X_A_enc ; X_B_enc], S_mixed = BiMamba(S), global mean pool; or another of `model/fusion.py`
    head        an MLP on what `fusion` gave
    summary_a   statistics of A's columns over its rows, one layer: z_A (ours); the same for B
    summary_head   an MLP on [z_A ; z_B ; z_A ⊙ z_B] (ours)
So there are two *experts*, the sequence model and the summaries, and no parameter is in both.  Each learns by a loss of
its own; `mix` takes (1 − w) of the one's output and w of the other's, w chosen on validation pairs.
Pairs that share an entity share its encoding: `encode_a` and `encode_b` run once on each distinct entity, and `fuse`
gathers them by pair.  All N × M pairs of two sets cost N + M encodings.

Shapes: T packed tokens, D width of a row, M model width, W width of a summary, P pairs, S distinct entities of a side,
E experts, 1 or 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossllm.model.batch import Batch, Packed, gather
from crossllm.model.bimamba import BiMamba
from crossllm.model.draws import BatchPart, Dropout, Noise, draw_for
from crossllm.model.fusion import Concat, CrossAttention, CrossMamba, Gated
from crossllm.model.settings import ModelConfig
from crossllm.model.standardise import Standardise
from crossllm.model.summary import Summary, SummaryHead, summarise

EXPERTS = ("sequence", "summary")
"""In the order of E; without summaries the first alone."""

OTHER_FUSIONS: dict[str, Callable[[int], nn.Module]] = {
    "concat": Concat,
    "gated": Gated,
    "cross_attention": CrossAttention,
}
"""Those of `settings.FUSIONS` that are one layer."""


class Encoded(NamedTuple):
    """Entities of a side, encoded."""

    tokens: Tensor
    """(T, M)."""
    offsets: Tensor
    """(S + 1,) int64 on the CPU."""
    summary: Tensor
    """(S, W) z of each entity; W is 0 in a model without."""

    def take(self, index: Tensor) -> Encoded:
        """The entities that `index` (P,) names, in its order."""
        found = gather(Packed(self.tokens, self.offsets), index)
        return Encoded(found.tokens, found.offsets, self.summary[index.to(self.summary.device)])

    @staticmethod
    def joined(parts: Sequence[Encoded]) -> Encoded:
        """The entities of several, one after the other."""
        lengths = torch.cat([part.offsets.diff() for part in parts])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return Encoded(torch.cat([part.tokens for part in parts]), offsets, torch.cat([part.summary for part in parts]))


def joins_pairs(config: ModelConfig) -> bool:
    """Whether memory and work grow with the tokens of the pairs, not only with those of the distinct entities.

    One Cross-Mamba block works once an entity (`factored_mixing.py`), two or none do not; cross-attention looks at each
    pair.
    """
    return config.fusion == "cross_attention" or (config.fusion == "cross_mamba" and config.mixer_layers != 1)


def expert_of(name: str) -> int:
    """Number of the expert to which a parameter or buffer of a model, or of an ensemble, belongs."""
    return int(any(part.startswith("summary") for part in name.split(".")))


class InteractionModel(nn.Module):
    """`forward(batch)` → (P,) logits or affinities: `encode_a`, `encode_b`, then `fuse`."""

    def __init__(self, dim_a: int, dim_b: int, config: ModelConfig, backend: str = "auto") -> None:
        super().__init__()
        width = config.d_model
        kind = Standardise if config.standardise else nn.Identity
        self.standardise_a, self.standardise_b = kind(dim_a), kind(dim_b)
        self.project_a, self.project_b = nn.Linear(dim_a, width), nn.Linear(dim_b, width)
        self.noise_a, self.noise_b = Noise(config.noise), Noise(config.noise)

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
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), Dropout(config.dropout), nn.Linear(width, 1))
        self.summary_a: Summary | None = None
        self.summary_b: Summary | None = None
        self.summary_head: SummaryHead | None = None
        self.summary_share: Tensor
        if own := config.summary_width:
            self.summary_a, self.summary_b = (Summary(dim, own, config.dropout) for dim in (dim_a, dim_b))
            self.summary_head = SummaryHead(own, config.dropout)
            self.register_buffer("summary_share", torch.tensor(0.5))

    def forward(self, batch: Batch) -> Tensor:
        """(P,) in the order of the batch's pairs."""
        return self.mix(self.experts(batch))

    def experts(self, batch: Batch) -> Tensor:
        """(E, P): what each expert says of each pair."""
        return self._each(self.encode_a(batch.a), self.encode_b(batch.b), batch.a_index, batch.b_index)

    def mix(self, outputs: Tensor) -> Tensor:
        """Outputs of the experts (E, P) → (P,)."""
        if self.summary_head is None:
            return outputs[0]
        return outputs[0].lerp(outputs[1], self.summary_share.to(outputs))

    def encode_a(self, rows: Packed) -> Encoded:
        """Standardising, projection, noise and BiMamba encoder of A entities, each on its own: (T, D_a) → (T, M)."""
        return self._encode(self.standardise_a, self.project_a, self.noise_a, self.encoder_a, self.summary_a, rows)

    def encode_b(self, rows: Packed) -> Encoded:
        """The same for B entities: (T, D_b) → (T, M)."""
        return self._encode(self.standardise_b, self.project_b, self.noise_b, self.encoder_b, self.summary_b, rows)

    def fuse(self, a: Encoded, b: Encoded, a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P,) logits or affinities of pairs of encoded entities.

        Args:
            a, b: what `encode_a` and `encode_b` gave.
            a_index, b_index: (P,) int64 on the CPU, which entity each pair has.
        """
        return self.mix(self._each(a, b, a_index, b_index))

    def draw_for(self, part: BatchPart) -> None:
        """Draw noise and dropout for a whole batch from now on, of which the next call is given this part."""
        (tokens_a, tokens_b), (entities_a, entities_b) = part.tokens, part.entities
        for layers, own in (
            (self.noise_a, tokens_a), (self.noise_b, tokens_b), (self.summary_a, entities_a),
            (self.summary_b, entities_b), (self.head, part.pairs), (self.summary_head, part.pairs),
        ):  # fmt: skip
            if layers is not None:
                draw_for(layers, own)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters of each part, in the order of the path of data."""
        parts = ((name, part) for name, part in self.named_children() if not isinstance(part, Noise))
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts}

    def _each(self, a: Encoded, b: Encoded, a_index: Tensor, b_index: Tensor) -> Tensor:
        fused = self.fusion(Packed(a.tokens, a.offsets), Packed(b.tokens, b.offsets), a_index, b_index)
        outputs: list[Tensor] = [self.head(fused)[:, 0]]
        if self.summary_head is not None:
            index = (one.to(a.summary.device) for one in (a_index, b_index))
            outputs.append(self.summary_head(a.summary, b.summary, *index))
        return torch.stack(outputs)

    def _encode(
        self,
        standardise: nn.Module,
        project: nn.Linear,
        noise: Noise,
        blocks: nn.ModuleList,
        summary: Summary | None,
        rows: Packed,
    ) -> Encoded:
        # The residual stream stays in float32 under autocast, as the parameters do.
        x: Tensor = noise(project(standardise(rows.tokens.float())).to(project.weight.dtype))
        for block in blocks:
            x = block(x, rows.offsets)
        if summary is None:
            return Encoded(x, rows.offsets, x.new_empty(len(rows.offsets) - 1, 0))
        return Encoded(x, rows.offsets, summary(summarise(rows) if rows.statistics is None else rows.statistics))
