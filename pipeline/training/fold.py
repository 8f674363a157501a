"""One fold: fit on its training part, choose epoch and threshold on its validation part, score its test part once.

`protocol = "paper"` chooses the epoch on the test part instead, as much of the literature does; every output says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.console.runner import stop_between_records
from crossllm.cache.errors import InputError
from crossllm.model.ensemble import Ensemble
from crossllm.model.standardise import Standardise
from crossllm.pipeline.evaluation.calibration import Calibration
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, compute
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.decision import decide
from crossllm.pipeline.training.keeping import Keeper
from crossllm.pipeline.training.predicting import autocast, bounds, go_on, predict
from crossllm.pipeline.training.progress import Epoch, Progress
from crossllm.pipeline.training.sampler import balanced, shuffled_batches
from crossllm.pipeline.training.target import Target, fit_target


class FoldResult(NamedTuple):
    """What a fold leaves behind."""

    score: np.ndarray
    """(P_test,) score or affinity of each test pair, in the order of the fold's test part."""
    threshold: float | None
    """Score from which on a pair is predicted 1, chosen on the validation part (½ with protocol `paper`); None in a
    regression."""
    target: Target
    """What the scaling was: a checkpoint needs it to give affinities."""
    best_epoch: int
    """Of the history; 0 of a system without epochs."""
    history: list[Epoch]
    state: dict[str, Tensor]
    """Weights of the best epoch; of another system than our model none."""
    calibration: Calibration | None = None
    """From score to probability, fitted on the validation part; None in a regression."""
    half_width: float | None = None
    """Of the interval around an affinity (`crossllm.pipeline.evaluation.intervals`), from the validation residuals;
    None in a classification."""


def fold_seed(seed: int, fold: int) -> int:
    """Seed of a fold: its own, so that a fold's numbers do not depend on which folds ran before it."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


class _Work(NamedTuple):
    """What one fold is fitted with, and what it is fitted to."""

    batches: PairBatches
    """Their labels scaled."""
    labels: np.ndarray
    """(P,) as they are."""
    parts: Parts
    config: TrainConfig
    target: Target
    device: torch.device
    pause: Callable[[], None]
    """Called between two steps, where a signal may stop the work and how far it has come may be kept."""


class _Stopped(Exception):
    """A signal arrived."""


def fit_fold(
    batches: PairBatches,
    parts: Parts,
    config: TrainConfig,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    keeper: Keeper | None = None,
) -> FoldResult:
    """Train one model from scratch, or from where a keeper has it.

    SIGTERM and SIGINT take effect between two steps, after how far it has come is kept.

    Args:
        batches: over the whole dataset.
        parts: pair numbers of this fold.
        config: the run's.
        seed: this fold's.
        device: where to compute.
        on_epoch: called after every epoch, those of an earlier start included.
        keeper: where how far it has come is kept; None: nowhere.
    """
    progress = _begin(batches, parts, config, seed, device)
    if keeper is not None and (saved := keeper.load()) is not None:
        progress.restore(saved)
    for done in progress.history:
        on_epoch(done)
    target = fit_target(batches.task, batches.labels, parts.train, config)
    scaled = batches.with_labels(target.scale(batches.labels))
    with stop_between_records() as stopped:

        def pause() -> None:
            if stopped():
                raise _Stopped
            if keeper is not None and keeper.due():
                keeper.save(progress.to_saved())

        work = _Work(scaled, batches.labels, parts, config, target, device, pause)
        try:
            while not _finished(progress, config):
                _run_epoch(progress, work, on_epoch)
        except _Stopped:
            pass  # leaving this block raises what the signal stands for
        if stopped() and keeper is not None:
            keeper.save(progress.to_saved())
    return _score_once(progress, work._replace(pause=go_on))


def _begin(batches: PairBatches, parts: Parts, config: TrainConfig, seed: int, device: torch.device) -> Progress:
    """A fold before its first step."""
    torch.manual_seed(seed)
    model = _new_model(batches, parts, config).to(device)
    optimiser = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.lr)
    steps = config.epochs * -(-len(parts.train) // config.batch_pairs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps, config))
    return Progress(model, optimiser, schedule, np.random.default_rng(seed), device, config.ema)


def _rate(step: int, steps: int, config: TrainConfig) -> float:
    """Of the learning rate, what a step takes: a linear rise, then all of it, or half a cosine down to `steps`."""
    if step < config.warmup_steps or config.schedule == "constant":
        return min(1.0, (step + 1) / config.warmup_steps)
    share = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _finished(progress: Progress, config: TrainConfig) -> bool:
    """Whether no further epoch is trained; the paper's way takes the best of all of them and stops early never."""
    done = progress.epoch - 1
    patient = config.protocol == "paper" or done - progress.best_epoch < config.patience
    return done >= config.epochs or not patient


def _run_epoch(progress: Progress, work: _Work, on_epoch: Callable[[Epoch], None]) -> None:
    """One epoch, or what is left of it, and its place among the others."""
    config, target, validation = work.config, work.target, work.parts.validation
    pairs = work.parts.train
    if config.balance and target.task == "classification":
        pairs = balanced(pairs, work.labels[pairs], progress.rng)
    order = shuffled_batches(pairs, work.batches.sides, bounds(config), config.sharing, progress.rng)
    train_loss = _train_epoch(progress, work, order)
    output = predict(progress.judged, work.batches, validation, config, work.device, work.pause)
    loss = float(target.loss(output, torch.from_numpy(work.batches.labels[validation]).float(), config))
    if not math.isfinite(loss):
        raise InputError(
            f"the validation loss became {loss}; use a lower --lr, and look for a label far off the others"
        )
    recent = [*(epoch.validation_loss for epoch in progress.history), loss][-config.smooth :]
    cost = sum(recent) / len(recent) if config.protocol == "honest" else -_paper_score(progress, work)
    progress.end_epoch(Epoch(progress.epoch, train_loss, loss, _quality(target, work.labels[validation], output)), cost)
    on_epoch(progress.history[-1])


def _paper_score(progress: Progress, work: _Work) -> float:
    """The first metric of the task on the *test* part, at threshold ½; −∞ where it is undefined."""
    test = work.parts.test
    score = work.target.score(predict(progress.judged, work.batches, test, work.config, work.device, work.pause))
    found = compute(work.target.task, Scored(work.labels[test], score, score >= 0.5), np.ones((1, len(test))))
    value = float(found[METRICS[work.target.task][0]][0])
    return value if math.isfinite(value) else -math.inf


def _score_once(progress: Progress, work: _Work) -> FoldResult:
    """The best epoch's weights; threshold, calibration and interval from validation pairs; the test part, scored."""
    model, config, target, parts = progress.model, work.config, work.target, work.parts
    model.load_state_dict(progress.best_state)
    validation, test = (
        target.score(predict(model, work.batches, pairs, config, work.device))
        for pairs in (parts.validation, parts.test)
    )
    state = {name: tensor.cpu() for name, tensor in progress.best_state.items()}
    decided = decide(target.task, work.labels[parts.validation], validation, config)
    return FoldResult(
        test, decided.threshold, target, progress.best_epoch, progress.history, state, decided.calibration,
        decided.half_width,
    )  # fmt: skip


def _new_model(batches: PairBatches, parts: Parts, config: TrainConfig) -> Ensemble:
    """Models of random weights that know the moments of their training part's tokens and summaries."""
    model = Ensemble(config.ensemble, *batches.dims, config.model, config.scan)
    if config.model.standardise:
        moments = batches.moments(parts.train)
        for member in model.interaction_models:
            for layer, found in zip((member.standardise_a, member.standardise_b), moments, strict=True):
                if isinstance(layer, Standardise):
                    layer.fit(found)
    if config.model.summary_width:
        moments = batches.statistics_moments(parts.train)
        for member in model.interaction_models:
            for summary, found in zip((member.summary_a, member.summary_b), moments, strict=True):
                if summary is not None:
                    summary.fit(found)
    return model


def _decay_groups(model: Ensemble, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on biases, norms and D, nor on A_log, whose decay would move A towards −1."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim > 1 and not name.endswith("A_log") else others).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _train_epoch(progress: Progress, work: _Work, order: list[np.ndarray]) -> float:
    """One pass over the training pairs, batch by batch, from the step on that it has come to; their mean loss."""
    model, optimiser, config = progress.model, progress.optimiser, work.config
    model.train()
    for batch in work.batches.stream(order[progress.step :], config.model.summary_width > 0):
        batch = batch.to(work.device)
        with autocast(config, work.device):
            outputs = model.outputs(batch).float()
        # The sum: each member has the gradient that it has alone.
        loss = torch.stack([work.target.loss(output, batch.label, config) for output in outputs]).sum()
        if not torch.isfinite(loss):
            raise InputError(f"the training loss became {loss.item()}; use a lower --lr or a larger --batch-pairs")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for member in model.members:
            torch.nn.utils.clip_grad_norm_(member.parameters(), config.clip)
        optimiser.step()
        progress.end_step(loss.item() / len(outputs) * len(batch.label))
        work.pause()
    return progress.total / sum(map(len, order))


def _quality(target: Target, label: np.ndarray, output: Tensor) -> float | None:
    """AUROC, or Pearson's correlation, of the validation part."""
    score = target.score(output)
    name = "auroc" if target.task == "classification" else METRICS[target.task][0]
    found = float(compute(target.task, Scored(label, score, score >= 0.5), np.ones((1, len(label))))[name][0])
    return found if math.isfinite(found) else None
