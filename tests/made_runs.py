"""A small embedded demo and the quickest settings to train on it."""

from __future__ import annotations

import csv
from pathlib import Path

from crossllm.embed.run.run import RunOptions, run
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.data.demo import write_demo
from crossllm.pipeline.training.config import TrainConfig

QUICK = TrainConfig(folds=2, epochs=2, model=ModelConfig(d_model=8, d_state=4))


def embedded_demo(folder: Path, **size: int) -> Path:
    write_demo(folder, **size)
    for modality in ("rna", "protein"):
        run(RunOptions(modality, folder / f"{modality}.fasta", folder, "profile", quiet=True))
    return folder


def rows(path: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter=delimiter))
