"""TensorBoard events of a run: `tensorboard --logdir RUN/tensorboard` shows every fold's curves while it trains."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.training.fold import Epoch


class FoldEvents:
    """Writes one fold's curves, in place of those of an earlier start that was cut off."""

    def __init__(self, run: Path, number: int, task: Task) -> None:
        # By number, as the checkpoints: a fold's name comes from the pairs table and is no path.
        self._folder = run / "tensorboard" / f"fold-{number}"
        self._score = "auroc" if task == "classification" else "pearson"
        self._writer: Any = None

    def add(self, epoch: Epoch) -> None:
        """One epoch: losses of both parts and the validation score, by name."""
        self._writer.add_scalar("train/loss", epoch.train_loss, epoch.epoch)
        self._writer.add_scalar("validation/loss", epoch.validation_loss, epoch.epoch)
        if epoch.validation_score is not None:
            self._writer.add_scalar(f"validation/{self._score}", epoch.validation_score, epoch.epoch)

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder))
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._writer.close()
