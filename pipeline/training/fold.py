"""One fold: fit on its training part, choose epoch and threshold on its validation part, score its test part once.

`protocol = "paper"` chooses the epoch on the test part instead, as much of the literature does; every output says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.console.runner import Terminated, stop_between_records
from crossllm.cache.errors import InputError
from crossllm.model.ensemble import Ensemble
from crossllm.model.optimiser import AdamW
from crossllm.model.standardise import Standardise
from crossllm.pipeline.evaluation.calibration import Calibration
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, compute
from crossllm.pipeline.ranks.ranks import ALONE, Ranks
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.decision import decide, summary_share
from crossllm.pipeline.training.keeping import Keeper, told
from crossllm.pipeline.training.predicting import bounds, go_on, predict, predict_experts
from crossllm.pipeline.training.progress import Epoch, Progress
from crossllm.pipeline.training.sampler import balanced, shuffled_batches
from crossllm.pipeline.training.steps import Settled, Work, train_epoch
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
    best_epochs: list[int]
    """(E,) of the history, one of each expert of our model; [0] of a system without epochs."""
    history: list[Epoch]
    state: dict[str, Tensor]
    """Of each expert the weights of its best epoch; of another system than our model none."""
    calibration: Calibration | None = None
    """From score to probability, fitted on the validation part; None in a regression."""
    half_width: float | None = None
    """Of the interval around an affinity (`crossllm.pipeline.evaluation.intervals`), from the validation residuals;
    None in a classification."""
    summary_share: float | None = None
    """Of the summaries' expert in our model's output, chosen on the validation part; None without."""

    @property
    def best_epoch(self) -> int:
        """The last that an expert is taken from."""
        return max(self.best_epochs)


def fold_seed(seed: int, fold: int) -> int:
    """Seed of a fold: its own, so that a fold's numbers do not depend on which folds ran before it."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


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
    settled: Settled | None = None,
    ranks: Ranks = ALONE,
) -> FoldResult:
    """Train one model from scratch, or from where a keeper has it.

    SIGTERM and SIGINT take effect between two steps, after how far it has come is kept; of several processes all stop
    after the same step.

    Args:
        batches: over the whole dataset.
        parts: pair numbers of this fold.
        config: the run's.
        seed: this fold's.
        device: where to compute.
        on_epoch: called after every epoch, those of an earlier start included.
        keeper: where how far it has come is kept; None: nowhere.
        settled: what need not be chosen; None: the validation part chooses.
        ranks: the processes that train it together, each by this call; the first one's keeper counts.
    """
    progress = _begin(batches, parts, config, seed, device)
    if (saved := told(ranks, None if keeper is None else keeper.load())) is not None:
        progress.restore(saved)
    for done in progress.history:
        on_epoch(done)
    target = fit_target(batches.task, batches.labels, parts.train, config)
    scaled = batches.with_labels(target.scale(batches.labels))
    with stop_between_records() as stopped:

        def pause() -> None:
            if ranks.any(stopped()):
                raise _Stopped
            if keeper is not None and keeper.due():
                keeper.save(progress.to_saved())

        work = Work(scaled, batches.labels, parts, config, target, device, ranks, pause, settled)
        try:
            while not _finished(progress, config):
                _run_epoch(progress, work, on_epoch)
        except _Stopped:
            pass  # leaving this block raises what the signal stands for
        halted = ranks.any(stopped())
        if halted and keeper is not None:
            keeper.save(progress.to_saved())
    if halted:  # by a signal to another process
        raise Terminated
    return _score_once(progress, work._replace(pause=go_on))


def _begin(batches: PairBatches, parts: Parts, config: TrainConfig, seed: int, device: torch.device) -> Progress:
    """A fold before its first step."""
    torch.manual_seed(seed)
    model = _new_model(batches, parts, config).to(device)
    steps = config.epochs * -(-len(parts.train) // config.batch_pairs)
    optimiser = AdamW(model, lambda step: config.lr * rate_share(step, steps, config), config.weight_decay)
    return Progress(model, optimiser, np.random.default_rng(seed), device, config.ema)


def rate_share(step: int, steps: int, config: TrainConfig) -> float:
    """Of the learning rate, what a step takes: a linear rise, then all of it, or half a cosine down to `steps`."""
    if step < config.warmup_steps or config.schedule == "constant":
        return min(1.0, (step + 1) / config.warmup_steps)
    share = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _finished(progress: Progress, config: TrainConfig) -> bool:
    """Whether no further epoch is trained; the paper's way takes the best of all of them and stops early never."""
    done = progress.epoch - 1
    patient = config.protocol == "paper" or done - max(progress.best_epochs, default=0) < config.patience
    return done >= config.epochs or not patient


def _run_epoch(progress: Progress, work: Work, on_epoch: Callable[[Epoch], None]) -> None:
    """One epoch, or what is left of it, and its place among the others."""
    config, target, ranks, validation = work.config, work.target, work.ranks, work.parts.validation
    ranks.copy_first(progress.weights())  # what another machine rounds otherwise does not add up
    pairs = work.parts.train
    if config.balance and target.task == "classification":
        pairs = balanced(pairs, work.labels[pairs], progress.rng)
    order = shuffled_batches(pairs, work.batches.sides, bounds(config), config.sharing, progress.rng)
    train_loss = train_epoch(progress, work, order)
    outputs = predict_experts(progress.judged, work.batches, validation, config, work.device, work.pause, ranks)
    label = torch.from_numpy(work.batches.labels[validation]).float()
    output = progress.judged.mix(outputs)
    loss, *losses = (float(target.loss(one, label, config)) for one in (output, *outputs))
    if not all(map(math.isfinite, (loss, *losses))):
        raise InputError(
            f"the validation loss became {loss}; use a lower --lr, and look for a label far off the others"
        )
    quality, costs = _quality(target, work.labels[validation], output), _costs(progress, work, losses)
    # One decision for all processes.
    train_loss, loss, quality, losses, costs = ranks.tell([train_loss, loss, quality, losses, costs])
    done = Epoch(progress.epoch, train_loss, loss, quality)
    progress.end_epoch(done, losses, costs)
    on_epoch(done)


def _costs(progress: Progress, work: Work, losses: list[float]) -> list[float]:
    """(E,) what the epoch of each expert is chosen by, less is better; `losses` are those of the epoch under way."""
    if work.settled is not None:
        return [float(progress.epoch != epoch) for epoch in work.settled.epochs]
    if work.config.protocol == "paper":
        return [-score for score in _paper_scores(progress, work)]
    recent = [*progress.losses, losses][-work.config.smooth :]
    return [sum(of_one) / len(recent) for of_one in zip(*recent, strict=True)]


def _paper_scores(progress: Progress, work: Work) -> list[float]:
    """(E,) the first metric of the task on the *test* part, at threshold ½; −∞ where it is undefined."""
    test, task, found = work.parts.test, work.target.task, []
    for output in predict_experts(
        progress.judged, work.batches, test, work.config, work.device, work.pause, work.ranks
    ):
        score = work.target.score(output)
        metrics = compute(task, Scored(work.labels[test], score, score >= 0.5), np.ones((1, len(test))))
        value = float(metrics[METRICS[task][0]][0])
        found.append(value if math.isfinite(value) else -math.inf)
    return found


def _score_once(progress: Progress, work: Work) -> FoldResult:
    """The best epochs' weights; mixture, threshold, calibration and interval from validation pairs; the test part."""
    model, config, target, parts = progress.model, work.config, work.target, work.parts
    model.load_state_dict(progress.best_state)
    outputs = predict_experts(model, work.batches, parts.validation, config, work.device, ranks=work.ranks)
    share = None if work.settled is None else work.settled.summary_share
    if model.experts > 1:
        if share is None:
            label = torch.from_numpy(work.batches.labels[parts.validation]).float()
            share = summary_share(outputs, lambda mixture: target.loss(mixture, label, config))
        model.set_summary_share(share)
    validation = target.score(model.mix(outputs))
    test = target.score(predict(model, work.batches, parts.test, config, work.device, ranks=work.ranks))
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    decided = decide(target.task, work.labels[parts.validation], validation, config)
    return FoldResult(
        test, decided.threshold, target, progress.best_epochs, progress.history, state, decided.calibration,
        decided.half_width, share,
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


def _quality(target: Target, label: np.ndarray, output: Tensor) -> float | None:
    """AUROC, or Pearson's correlation, of the validation part."""
    score = target.score(output)
    name = "auroc" if target.task == "classification" else METRICS[target.task][0]
    found = float(compute(target.task, Scored(label, score, score >= 0.5), np.ones((1, len(label))))[name][0])
    return found if math.isfinite(found) else None
