"""The steps of an epoch: what a fold is fitted with, and one pass over its training pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.errors import InputError
from crossllm.model.batch import Batch
from crossllm.model.ensemble import Ensemble
from crossllm.model.threads import few_threads
from crossllm.pipeline.ranks.ranks import Ranks
from crossllm.pipeline.ranks.step import sum_gradients, whole_outputs
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.predicting import autocast, bounds
from crossllm.pipeline.training.progress import Progress
from crossllm.pipeline.training.sampler import Share, shared_out
from crossllm.pipeline.training.target import Target


class Settled(NamedTuple):
    """What folds have chosen for a model that has no pairs to choose on."""

    epochs: list[int]
    """(E,) the epoch of which each expert is taken."""
    summary_share: float | None
    """As `FoldResult` has it."""


class Work(NamedTuple):
    """What one fold is fitted with, and what it is fitted to."""

    batches: PairBatches
    """Their labels scaled."""
    labels: np.ndarray
    """(P,) as they are."""
    parts: Parts
    config: TrainConfig
    target: Target
    device: torch.device
    ranks: Ranks
    pause: Callable[[], None]
    """Called between two steps, where a signal may stop the work and how far it has come may be kept."""
    settled: Settled | None


def train_epoch(progress: Progress, work: Work, order: list[np.ndarray]) -> float:
    """One pass over the training pairs, batch by batch, from the step on that it has come to; their mean loss."""
    model, optimiser, config, ranks = progress.model, progress.optimiser, work.config, work.ranks
    learners = model.learners()
    model.train()
    left = order[progress.step :]
    shares = [_own_share(pairs, work) for pairs in left]
    stream = work.batches.stream([share.pairs for share in shares], config.model.summary_width > 0)
    for pairs, share, batch in zip(left, shares, stream, strict=True):
        batch = batch.to(work.device)
        with few_threads(batch):
            outputs, label = _outputs(model, work, pairs, share, batch)
            # The sum: each expert of each member has the gradient that it has alone.
            loss = torch.stack([work.target.loss(output, label, config) for output in outputs]).sum()
            if not torch.isfinite(loss):
                raise InputError(f"the training loss became {loss.item()}; use a lower --lr or a larger --batch-pairs")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sum_gradients(ranks, model)
            for learner in learners:
                torch.nn.utils.clip_grad_norm_(learner, config.clip, foreach=True)
            optimiser.step()
            progress.end_step(loss.item() / len(outputs) * len(pairs))
        work.pause()
    return progress.total / sum(map(len, order))


def _own_share(pairs: np.ndarray, work: Work) -> Share:
    """What of a batch this process computes: all of it, if it is alone."""
    if work.ranks.count == 1:
        return Share(pairs, 0, True)
    return shared_out(pairs, work.batches.sides, bounds(work.config), work.ranks.count)[work.ranks.rank]


def _outputs(model: Ensemble, work: Work, pairs: np.ndarray, share: Share, batch: Batch) -> tuple[Tensor, Tensor]:
    """(N · E, P) of each expert of each member and (P,) labels of all pairs of a step.

    Of several processes each computes its own pairs here.
    """
    several = work.ranks.count > 1
    if several:
        part = work.batches.part_of(pairs, share)
        for member in model.interaction_models:
            member.draw_for(part)
    with autocast(work.config, work.device):
        outputs = model.outputs(batch).float().flatten(0, 1)
    if not several:
        return outputs, batch.label
    place = slice(share.first, share.first + len(share.pairs))
    label = torch.from_numpy(work.batches.labels[pairs].astype(np.float32)).to(work.device)
    return whole_outputs(work.ranks, outputs, place, len(pairs), counted=share.counted), label
