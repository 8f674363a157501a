"""The folds of our model: epochs that are shown while they pass, kept within a fold, and measured."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import torch

from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import Lines, announced, bar_class, hidden
from crossllm.model.bimamba import BiMamba
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import FoldResult, fit_fold, fold_seed
from crossllm.pipeline.training.inputs import Inputs, TrainOptions, parameter_counts
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.run_folder import RunFolder
from crossllm.pipeline.training.tracking import FoldEvents
from crossllm.pipeline.training.usage import Usage, measured


class ModelFolds:
    """Folds by our model.

    Args:
        options: what `train` was asked for.
        inputs: what it is trained on.
        count: folds of the run.
        folder: the run's.
        scan: backend of the scan, `auto` resolved.
    """

    def __init__(self, options: TrainOptions, inputs: Inputs, count: int, folder: RunFolder, scan: str) -> None:
        config = options.config
        self._config, self._count, self._folder = config, count, folder
        self._device, self._ranks = torch.device(options.device), options.ranks
        self._batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
        self.most_epochs: int | None = config.epochs
        counts = parameter_counts(inputs, config)
        named = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        note(f"note: {config.model.fusion}, {sum(counts.values()):,} parameters ({named}), scan by {scan}")
        self._bar = bar_class()(total=count * config.epochs, unit="epoch", disable=hidden(options.quiet))
        self._lines = Lines(options.quiet)
        _warm_up(config, scan, self._device, options.quiet)

    def fit(self, number: int, parts: Parts, digest: str) -> FoldResult:
        """Train one fold, or go on with it where an earlier start left it."""
        config = self._config
        with FoldEvents(self._folder.path, number, self._batches.task) as events:

            def show(epoch: Epoch) -> None:
                self._bar.update()
                self._bar.set_description(
                    f"fold {number + 1}/{self._count} validation loss {epoch.validation_loss:.4f}"
                )
                events.add(epoch)
                share = (number * config.epochs + epoch.epoch) / (self._count * config.epochs)
                self._lines.tell(lambda: self._told(epoch, number), share, "at most {} left")

            self._ranks.tell({"fold": number})
            return fit_fold(
                self._batches,
                parts,
                config,
                fold_seed(config.seed, number),
                self._device,
                show,
                self._folder.keeper(number, digest),
                None,
                self._ranks,
            )

    def passed(self, number: int) -> None:
        """Set the bar: early stopping leaves epochs out."""
        self._bar.update((number + 1) * self._config.epochs - self._bar.n)

    def usage(self) -> Usage:
        """Of this process, up to now."""
        return measured(self._batches)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._bar.close()
        waiting = self._batches.waiting
        if kind is None and waiting.total:
            note(f"note: {waiting.share:.1%} of {waiting.total:.0f} s in training and scoring was waiting for data")

    def _told(self, epoch: Epoch, fold: int) -> str:
        return (
            f"fold {fold + 1} of {self._count}, epoch {epoch.epoch} of at most {self._config.epochs}: training loss "
            f"{epoch.train_loss:.4f}, validation loss {epoch.validation_loss:.4f}"
        )


def _warm_up(config: TrainConfig, scan: str, device: torch.device, quiet: bool) -> None:
    """A step of the scan on next to nothing: where its kernels are not compiled yet, that is said and not a silence."""
    if scan != "numba":
        return
    with announced("note: compiling the scan's kernels for this processor; they are kept for the next run", quiet):
        block = BiMamba(config.model.d_model, config.model.d_state, config.model.bidirectional, scan).to(device)
        with torch.random.fork_rng(devices=[]):
            tokens = torch.zeros(2, config.model.d_model, device=device, requires_grad=True)
            block(tokens, torch.tensor([0, 2])).sum().backward()
