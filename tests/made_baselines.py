"""Baselines on a dataset, without a run around them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_runs import QUICK

from crossllm.pipeline.baselines.material import Material, cut
from crossllm.pipeline.baselines.registry import BASELINES
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.splits.choosing import similarities_of
from crossllm.pipeline.splits.options import SplitOptions
from crossllm.pipeline.splits.parts import Parts

FILES = {"rna": "rna.fasta", "protein": "protein.fasta", "molecule": "molecules.smi"}


def imported(source: Path, sides: tuple[str, str], folder: Path) -> Path:
    """A public set as a dataset."""
    files = [Side(modality, source / FILES[modality]) for modality in sides]
    import_dataset(ImportOptions(*files, source / "pairs.tsv", folder, on_bad="skip"))
    return folder


def material_of(folder: Path, dataset: Dataset, readers: Any = (None, None), *, aligned: bool = False) -> Material:
    """Without readers for baselines that need no rows; not aligned, for those that need no similarities."""
    similarities: Any = similarities_of(dataset, SplitOptions(), folder, quiet=True) if aligned else None
    return Material(dataset, folder, readers, 1, QUICK, torch.device("cpu"), similarities, quiet=True)


def relabelled(material: Material, labels: np.ndarray) -> Material:
    """The same pairs with other labels; what is known of the sequences, once it is made, is shared."""
    other = copy.copy(material)
    other.dataset = material.dataset._replace(labels=labels)
    return other


def baseline(material: Material, name: str, parts: Sequence[Parts]) -> list[Scored]:
    """The test predictions of each fold."""
    dataset = material.dataset
    fit = BASELINES[dataset.task][name]
    return [cut(dataset, part, fit(material, part, number)) for number, part in enumerate(parts)]
