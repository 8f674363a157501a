"""A small set with a planted interaction for the systems, and what makes each of them quick."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_runs import QUICK
from test_pipeline_baselines import Rows

from crossllm.cache import key_of
from crossllm.pipeline.baselines.forest import fit_forest
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUE_CLASSES, RESIDUES, Alphabet
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.networks import Schedule, adam

SETTINGS: dict[str, dict[str, Any]] = {
    "kmer_trees": {"crossllm.pipeline.baselines.trees.fit_forest": lambda kind, _, *rest: fit_forest(kind, 40, *rest)},
    "rpiseq_rf": {"crossllm.pipeline.systems.rpiseq_rf.TREES": 40},
    "ipminer": {"crossllm.pipeline.systems.ipminer.EPOCHS": 5, "crossllm.pipeline.systems.ipminer.TREES": 10},
    "cfrp": {"crossllm.pipeline.systems.cfrp.CHOOSING_TREES": 20, "crossllm.pipeline.systems.cfrp.TREES": 40},
    "rpiter": {
        "crossllm.pipeline.systems.rpiter.AUTOENCODER_EPOCHS": 2,
        "crossllm.pipeline.systems.rpiter.BATCH": 20,
        "crossllm.pipeline.systems.rpiter.EPOCHS": ((10, 1), (10, 1), (5, 1)),
        "crossllm.pipeline.systems.rpiter.PROTEIN_KMERS": Alphabet(RESIDUE_CLASSES, (1, 2)),
        "crossllm.pipeline.systems.rpiter.RNA_KMERS": Alphabet(NUCLEOTIDES, (1, 2, 3)),
    },
    "lpi_csffr": {
        "crossllm.pipeline.systems.lpi_csffr.SCHEDULE": Schedule(adam, 8, 16),
        "crossllm.pipeline.systems.lpi_csffr.PROTEIN_KMERS": Alphabet(RESIDUES, (1,)),
        "crossllm.pipeline.systems.lpi_csffr.RNA_KMERS": Alphabet(NUCLEOTIDES, (1, 2)),
    },
    "rnaincoder": {
        "crossllm.pipeline.systems.rnaincoder.AUTOENCODER_EPOCHS": 2,
        "crossllm.pipeline.systems.rnaincoder.CODES": (48, 24),
        "crossllm.pipeline.systems.rnaincoder.SCHEDULE": Schedule(adam, 20, 20),
    },
    "biollmnet": {"crossllm.pipeline.systems.biollmnet.SCHEDULE": Schedule(adam, 10, 20)},
}
"""System → what is set otherwise, so that a test is quick."""
MOTIFS = {"rna": "GGGCCC", "protein": "KRKRKK"}
ALPHABETS = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
SEQUENCES, SHOWN = 60, 40
"""Sequences of a side, and those that stand in training and validation pairs; the others stand in test pairs alone."""
PARTS = Parts(np.arange(160), np.arange(160, 220), np.arange(220, 300))


class Made:
    """Every second sequence of either side carries three copies of its side's motif; a pair of two such interacts."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.texts = {modality: [self._text(modality, n % 2 == 1) for n in range(SEQUENCES)] for modality in MOTIFS}
        self.rows = {modality: self._rows() for modality in MOTIFS}
        known, new = (self._pairs(count, *ends) for count, ends in ((220, (0, SHOWN)), (80, (SHOWN, SEQUENCES))))
        self.rna, self.protein = np.concatenate([known, new], axis=1)
        self.labels = (self.rna % 2 & self.protein % 2).astype(float)

    def _text(self, modality: str, carries: bool) -> str:
        letters = self.rng.choice(list(ALPHABETS[modality]), 60).tolist()
        for start in (5, 25, 45) if carries else ():
            letters[start : start + 6] = MOTIFS[modality]
        return "".join(letters)

    def _rows(self) -> np.ndarray:
        """(S, 3, 8), of which one column knows the motif."""
        rows = self.rng.normal(size=(SEQUENCES, 3, 8)).astype(np.float32)
        rows[:, :, 2] += 3 * (np.arange(SEQUENCES) % 2)[:, None]
        return rows

    def _pairs(self, count: int, first: int, last: int) -> np.ndarray:
        """(2, count) distinct pairs in any order, half of them of two that carry."""
        grid = np.stack(np.meshgrid(np.arange(first, last), np.arange(first, last)), -1).reshape(-1, 2)
        carry = (grid % 2).all(axis=1)
        chosen = [self.rng.choice(np.flatnonzero(own), count // 2, replace=False) for own in (carry, ~carry)]
        return grid[self.rng.permutation(np.concatenate(chosen))].T

    def material(self, system: str, *, swapped: bool = False) -> Material:
        """As a run of the system has it; `swapped`: proteins are side A."""
        keys = {modality: [key_of(modality, text) for text in texts] for modality, texts in self.texts.items()}
        sides = [("rna", self.rna), ("protein", self.protein)][:: -1 if swapped else 1]
        (a, of_a), (b, of_b) = sides
        dataset = Dataset(
            "made", "classification", a, b, [f"a{n}" for n in of_a], [f"b{n}" for n in of_b],
            [keys[a][n] for n in of_a], [keys[b][n] for n in of_b], self.labels, {}, "",
        )  # fmt: skip
        first, second = (Rows(dict(zip(keys[side], self.rows[side], strict=True)), side) for side in (a, b))
        config = dataclasses.replace(QUICK, system=system)
        nothing: Any = None
        device = torch.device("cpu")
        found = Material(dataset, Path(), (first, second), 1, config, device, nothing, quiet=True)  # type: ignore[arg-type]
        of_key = {key: text for side in keys for key, text in zip(keys[side], self.texts[side], strict=True)}
        vars(found)["sequences"] = tuple([of_key[key] for key in side.keys] for side in found.sides)
        return found
