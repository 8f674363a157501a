"""TensorBoard events of a run: `tensorboard --logdir RUN/tensorboard` shows every fold's curves while it trains."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.fold import Epoch


class FoldEvents:
    """Writes one fold's curves, in place of those of an earlier start that was cut off."""

    def __init__(self, run: Path, number: int) -> None:
        # By number, as the checkpoints: a fold's name comes from the pairs table and is no path.
        self._folder = run / "tensorboard" / f"fold-{number}"
        self._writer: Any = None

    def add(self, epoch: Epoch) -> None:
        """One epoch: losses of both parts and the validation score, by name."""
        for name in ("train_loss", "validation_loss", "validation_score"):
            value = getattr(epoch, name)
            if value is not None:
                self._writer.add_scalar(name.replace("_", "/", 1), value, epoch.epoch)

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder))
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._writer.close()
