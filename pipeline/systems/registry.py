"""Every system by its name, and what it can be asked for.  Nothing of a system is imported before it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from crossllm.cache.errors import InputError
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.systems.fitted import System

BOTH: tuple[Task, ...] = ("classification", "regression")
CLASSES: tuple[Task, ...] = ("classification",)
RNA_PROTEIN = frozenset({"rna", "protein"})


class SystemInfo(NamedTuple):
    """A system, as `docs/guide/systems.md` lists it."""

    load: Callable[[], System] | None
    """Imports it; None: our model, which has folds of its own (`crossllm.pipeline.systems.model_folds`)."""
    about: str
    """One line: what it reads and what it is."""
    tasks: tuple[Task, ...] = CLASSES
    modalities: frozenset[str] | None = RNA_PROTEIN
    """Of its two sides, in either order; None: any two."""
    reads: Literal["sequences", "rows"] = "sequences"
    """Of each partner: its sequence, or its rows in the cache."""


def _load_kmer_trees() -> System:
    from crossllm.pipeline.systems.kmer_trees import kmer_trees

    return kmer_trees


def _load_rpiseq_rf() -> System:
    from crossllm.pipeline.systems.rpiseq_rf import rpiseq_rf

    return rpiseq_rf


def _load_ipminer() -> System:
    from crossllm.pipeline.systems.ipminer import ipminer

    return ipminer


def _load_cfrp() -> System:
    from crossllm.pipeline.systems.cfrp import cfrp

    return cfrp


def _load_rpiter() -> System:
    from crossllm.pipeline.systems.rpiter import rpiter

    return rpiter


def _load_lpi_csffr() -> System:
    from crossllm.pipeline.systems.lpi_csffr import lpi_csffr

    return lpi_csffr


def _load_rnaincoder() -> System:
    from crossllm.pipeline.systems.rnaincoder import rnaincoder

    return rnaincoder


def _load_biollmnet() -> System:
    from crossllm.pipeline.systems.biollmnet import biollmnet

    return biollmnet


SYSTEMS: dict[str, SystemInfo] = {
    OUR_MODEL: SystemInfo(None, "Cross-Mamba over the rows of both partners", BOTH, None, "rows"),
    "kmer_trees": SystemInfo(_load_kmer_trees, "extra trees on both partners' k-mers or fingerprints", BOTH, None),
    "rpiseq_rf": SystemInfo(_load_rpiseq_rf, "random forest on triads and tetranucleotides"),
    "ipminer": SystemInfo(_load_ipminer, "stacked autoencoders of triads and tetranucleotides, forests, stacking"),
    "cfrp": SystemInfo(_load_cfrp, "random forest on complex features of k-mers"),
    "rpiter": SystemInfo(_load_rpiter, "convolutions and autoencoders on k-mers, combined"),
    "lpi_csffr": SystemInfo(_load_lpi_csffr, "dense convolutions over k-mers and pseudo composition in a line"),
    "rnaincoder": SystemInfo(_load_rnaincoder, "autoencoders of descriptors, dense convolutions over their codes"),
    "biollmnet": SystemInfo(_load_biollmnet, "mean rows of both partners, mixed by a gate", BOTH, None, "rows"),
}
"""Name, as `system` of `crossllm.pipeline.training.config` takes it → the system; in the order of the guide's table."""


def check_system(name: str, dataset: Dataset) -> None:
    """Raise `InputError` where a system cannot be fitted on a dataset, with those that can."""
    info, sides = SYSTEMS[name], {dataset.modality_a, dataset.modality_b}
    if _takes(info, dataset):
        return
    others = ", ".join(other for other, known in SYSTEMS.items() if _takes(known, dataset))
    if dataset.task not in info.tasks:
        what = f"predicts {_classes(info.tasks[0])}, the labels of this dataset are {_classes(dataset.task)}"
    else:
        what = f"takes {_pair(info.modalities or sides)}, this dataset has {_pair(sides)}"
    raise InputError(f"--system {name}: {what}; these take it: {others}")


def _takes(info: SystemInfo, dataset: Dataset) -> bool:
    return dataset.task in info.tasks and info.modalities in (None, {dataset.modality_a, dataset.modality_b})


def _classes(task: Task) -> str:
    return "classes" if task == "classification" else "affinities"


def _pair(modalities: set[str] | frozenset[str]) -> str:
    first, *second = sorted(modalities, reverse=True)
    return f"{first} and {second[0] if second else first}"
