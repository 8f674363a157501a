"""A model's outputs for pairs, in the batches and the precision that training has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from crossllm.model.ensemble import Ensemble
from crossllm.model.interaction import joins_pairs
from crossllm.model.threads import few_threads
from crossllm.pipeline.ranks.ranks import ALONE, Ranks
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.sampler import Bounds, dealt_out, ordered_batches


def go_on() -> None:
    """Nothing stops."""


def predict(
    model: Ensemble,
    batches: PairBatches,
    pairs: np.ndarray,
    config: TrainConfig,
    device: torch.device,
    pause: Callable[[], None] = go_on,
    ranks: Ranks = ALONE,
) -> Tensor:
    """(P,) logits or scaled affinities: as `predict_experts` has them, mixed."""
    return model.mix(predict_experts(model, batches, pairs, config, device, pause, ranks))


def predict_experts(
    model: Ensemble,
    batches: PairBatches,
    pairs: np.ndarray,
    config: TrainConfig,
    device: torch.device,
    pause: Callable[[], None] = go_on,
    ranks: Ranks = ALONE,
) -> Tensor:
    """(E, P) logits or scaled affinities of each expert for these pairs on the CPU, in their order.

    There is no noise and no dropout.  `pause` is called after every batch, by a process that is alone.  Of several
    processes each computes some of the batches, which are those that one process makes, and gets the others.
    """
    model.eval()
    sides = [side.at(pairs) for side in batches.sides]
    places = ordered_batches(np.arange(len(pairs)), sides, bounds(config))
    if ranks.count > 1:
        places = [places[n] for n in dealt_out(places, sides, ranks.count)[ranks.rank]]
    outputs = torch.zeros(model.experts, len(pairs))
    with torch.inference_mode():
        stream = batches.stream([pairs[part] for part in places], config.model.summary_width > 0)
        for part, batch in zip(places, stream, strict=True):
            batch = batch.to(device)
            with few_threads(batch), autocast(config, device):
                output = model.outputs(batch).mean(0)
            outputs[:, torch.from_numpy(part)] = output.float().cpu()
            if ranks.count == 1:  # of several each has its own number of batches, and could not stop with the others
                pause()
    return ranks.sum(outputs)


def bounds(config: TrainConfig) -> Bounds:
    """Of a batch."""
    # The kernel of mamba_ssm takes no states, which the mixer's shortcut hands on.
    joined = joins_pairs(config.model) or config.scan == "mamba_ssm"
    return Bounds(config.batch_pairs, config.batch_tokens, joined)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the type of `compute`; parameters, scan and sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.compute == "bfloat16")
