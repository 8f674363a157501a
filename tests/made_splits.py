"""Made datasets whose relatives are known, for splits and leak reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossllm.cache.records.record import Record, record_of
from crossllm.pipeline.data.dataset import Dataset, load_dataset, write_dataset
from crossllm.pipeline.data.pairs import Pair

LETTERS = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}


def families(
    rng: np.random.Generator, modality: str, count: int, members: int, relatives: float, prefix: str = ""
) -> list[Record]:
    """`count` families of `members` sequences that share so much with their family's first; family by family."""
    records = []
    for family in range(count):
        parent = rng.choice(list(LETTERS[modality]), 90)
        for member in range(members):
            letters = parent.copy()
            if member:
                places = rng.choice(90, round((1 - relatives) * 90), replace=False)
                letters[places] = [rng.choice([x for x in LETTERS[modality] if x != letters[p]]) for p in places]
            records.append(record_of(modality, f"{prefix}{modality}{family}-{member}", "".join(letters)))
    return records


def made_dataset(
    folder: Path,
    rng: np.random.Generator,
    *,
    count: int = 10,
    members: int = 3,
    relatives: float = 0.9,
    pairs: int = 400,
    modalities: tuple[str, str] = ("rna", "protein"),
    task: str = "classification",
) -> Dataset:
    """A dataset of families on both sides, its labels drawn by chance, with the columns fold and species."""
    a = families(rng, modalities[0], count, members, relatives, "a")
    b = families(rng, modalities[1], count, members, relatives, "b")
    chosen = rng.choice(len(a) * len(b), pairs, replace=False)
    labels = rng.random(pairs) if task == "regression" else rng.integers(0, 2, pairs)
    rows = [
        Pair(a[n // len(b)].id, b[n % len(b)].id, float(label), 0, (str(k % 3), ("ath", "mtr", "gma")[k % 3]))
        for k, (n, label) in enumerate(zip(chosen.tolist(), labels.tolist(), strict=True))
    ]
    records: dict[str, list[Record]] = {}
    for modality, own in zip(modalities, (a, b), strict=True):
        records.setdefault(modality, []).extend(own)
    write_dataset(folder, "made", task, modalities, records, rows, ("fold", "species"), {})  # type: ignore[arg-type]
    return load_dataset(folder)[0]
