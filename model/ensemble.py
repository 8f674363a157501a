"""Several models of one shape as one: each learns by itself from the same batches, and their outputs are averaged.

Members differ in their first weights, noise and dropout, and what is by chance in each averages out (Lakshminarayanan
et al. 2017, arXiv:1612.01474, section 2.4).

Shapes: N members, E experts of each (`crossllm.model.interaction`), P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossllm.model.batch import Batch, Packed
from crossllm.model.interaction import Encoded, InteractionModel, expert_of
from crossllm.model.settings import ModelConfig


class Ensemble(nn.Module):
    """`forward(batch)` → (P,) the mean of the members' logits or affinities; of one member, that member."""

    def __init__(self, members: int, dim_a: int, dim_b: int, config: ModelConfig, backend: str = "auto") -> None:
        super().__init__()
        self.members = nn.ModuleList(InteractionModel(dim_a, dim_b, config, backend) for _ in range(members))

    def outputs(self, batch: Batch) -> Tensor:
        """(N, E, P): what each member's experts say of each pair."""
        return torch.stack([member.experts(batch) for member in self.interaction_models])

    def forward(self, batch: Batch) -> Tensor:
        """(P,) in the order of the batch's pairs."""
        return self.mix(self.outputs(batch).mean(0))

    def mix(self, outputs: Tensor) -> Tensor:
        """The members' mean outputs of each expert (E, P) → (P,)."""
        return self.interaction_models[0].mix(outputs)

    @property
    def experts(self) -> int:
        """E of a member."""
        return 1 if self.interaction_models[0].summary_head is None else 2

    def set_summary_share(self, share: float) -> None:
        """Of the second expert in the mixture, 0 to 1, in every member."""
        for member in self.interaction_models:
            member.summary_share.fill_(share)

    def learners(self) -> list[list[nn.Parameter]]:
        """Parameters of each expert of each member: they share no loss, so each has a gradient norm of its own."""
        found: dict[tuple[int, int], list[nn.Parameter]] = {}
        for number, member in enumerate(self.interaction_models):
            for name, parameter in member.named_parameters():
                found.setdefault((number, expert_of(name)), []).append(parameter)
        return list(found.values())

    def encode_a(self, rows: Packed) -> tuple[Encoded, ...]:
        """A entities as each member encodes them."""
        return tuple(member.encode_a(rows) for member in self.interaction_models)

    def encode_b(self, rows: Packed) -> tuple[Encoded, ...]:
        """B entities as each member encodes them."""
        return tuple(member.encode_b(rows) for member in self.interaction_models)

    def fuse(self, a: Sequence[Encoded], b: Sequence[Encoded], a_index: Tensor, b_index: Tensor) -> Tensor:
        """(P,) of pairs of encoded entities; arguments as `InteractionModel.fuse` has them, of every member."""
        each = zip(self.interaction_models, a, b, strict=True)
        return torch.stack([member.fuse(x, y, a_index, b_index) for member, x, y in each]).mean(0)

    @property
    def interaction_models(self) -> list[InteractionModel]:
        """The members, as what they are."""
        return [member for member in self.members if isinstance(member, InteractionModel)]

    def parameter_counts(self) -> dict[str, int]:
        """Parameters of each part of all members together, in the order of the path of data."""
        counts = [member.parameter_counts() for member in self.interaction_models]
        return {name: sum(count[name] for count in counts) for name in counts[0]}
