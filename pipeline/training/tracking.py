"""TensorBoard events of a run: `tensorboard --logdir RUN/tensorboard` shows every fold's curves while it trains.

Written by its own record writer into a plain file, an epoch at a time.  Its `SummaryWriter` writes in a thread of its
own, where a full disk is a traceback and no error, and takes no path that is not UTF-8.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.training.progress import Epoch


class FoldEvents:
    """Writes one fold's curves, in place of those of an earlier start that was cut off."""

    def __init__(self, run: Path, number: int, task: Task) -> None:
        # By number, as the checkpoints: a fold's name comes from the pairs table and is no path.
        self._folder = run / "tensorboard" / f"fold-{number}"
        self._score = "auroc" if task == "classification" else "pearson"
        self._path = Path()
        self._file: Any = None

    def add(self, epoch: Epoch) -> None:
        """One epoch: losses of both parts and the validation score, by name.

        Raises:
            OSError: the disk is full, with the file's name.
        """
        values = {"train/loss": epoch.train_loss, "validation/loss": epoch.validation_loss}
        if epoch.validation_score is not None:
            values[f"validation/{self._score}"] = epoch.validation_score
        self._write(*({"step": epoch.epoch, "summary": _scalar(name, value)} for name, value in values.items()))

    def _write(self, *events: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            for event in events:
                RecordWriter(self._file).write(Event(wall_time=time.time(), **event).SerializeToString())
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        # The name that TensorBoard looks for.
        self._path = self._folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = open(self._path, "wb")  # closed by __exit__
        try:
            self._write({"file_version": "brain.Event:2"})
        except OSError:
            with suppress(OSError):
                self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        try:
            self._file.close()
        except OSError as error:  # what could not be flushed is tried again
            if kind is None:
                raise OSError(error.errno, error.strerror, str(self._path)) from None


def _scalar(name: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value)])
