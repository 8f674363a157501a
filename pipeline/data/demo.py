"""`crossllm data demo`: a generated RNA–protein set with a planted interaction, for trying and testing the whole path.

Each RNA carries two copies of a motif of one of three families, each protein likewise; a pair interacts exactly if
its two families match.  Labels are drawn pair by pair and entities uniformly within their family, so that neither an
id nor one partner's sequence tells the label: only the two sequences together do.  A few labels are turned round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossllm.cache.records.modality import CERTAIN
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.remote.opening import shown
from crossllm.pipeline.data.dataset import write_dataset
from crossllm.pipeline.data.pairs import Pair

RNA_MOTIFS = (("GGAUC", "GGAUA"), ("CUUCG", "CUUGG"), ("AAGAA", "AAGCA"))
"""Family → its spellings.  Made up; they mean nothing in biology."""
PROTEIN_MOTIFS = (("KRGKW", "KRGRW"), ("DEHDE", "DEHEE"), ("FLIVM", "FLIVF"))
RNA_LENGTHS, PROTEIN_LENGTHS = (40, 60), (32, 48)
COPIES = 2
FLIPPED = 0.03
"""Share of labels turned round, as real assays do: the best possible MCC is about 1 − 2 · FLIPPED."""
ENTITIES, PAIRS = 600, 3000


def write_demo(cache_dir: Path, seed: int = 0, entities: int = ENTITIES, pairs: int = PAIRS) -> str:
    """Generate the set and write it as a dataset; a line that says what was written.  The same seed, the same bytes."""
    rng = np.random.default_rng(seed)
    rnas, rna_family = _entities(rng, "rna", entities, RNA_MOTIFS, RNA_LENGTHS)
    proteins, protein_family = _entities(rng, "protein", entities, PROTEIN_MOTIFS, PROTEIN_LENGTHS)
    drawn = _pairs(rng, rna_family, protein_family, pairs)
    rows = [Pair(rnas[a].id, proteins[b].id, float(label), 0, ()) for (a, b), label in drawn.items()]
    source = {"generator": "crossllm data demo", "seed": seed, "entities": entities}
    records = {"rna": rnas, "protein": proteins}
    write_dataset(cache_dir, "demo", "classification", ("rna", "protein"), records, rows, (), source)
    return f"{len(rows)} generated pairs over {entities} RNAs and {entities} proteins → {shown(cache_dir)}"


def _entities(
    rng: np.random.Generator, modality: str, count: int, motifs: Sequence[Sequence[str]], lengths: tuple[int, int]
) -> tuple[list[Record], np.ndarray]:
    """Records and the family of each; no sequence holds a motif of another family by chance."""
    family = np.arange(count) % len(motifs)
    records = []
    for number, own in enumerate(family.tolist()):
        while True:
            sequence = _plant(rng, CERTAIN[modality], motifs[own], int(rng.integers(lengths[0], lengths[1] + 1)))
            others = (m for f, spellings in enumerate(motifs) if f != own for m in spellings)
            if not any(motif in sequence for motif in others):
                break
        records.append(record_of(modality, f"{modality}{number:04d}", sequence))
    return records, family


def _plant(rng: np.random.Generator, alphabet: str, spellings: Sequence[str], length: int) -> str:
    """A random sequence with `COPIES` motifs, one in each equal part of it."""
    letters = rng.choice(list(alphabet), length)
    part = length // COPIES
    for copy in range(COPIES):
        motif = spellings[int(rng.integers(len(spellings)))]
        start = copy * part + int(rng.integers(part - len(motif) + 1))
        letters[start : start + len(motif)] = list(motif)
    return "".join(letters)


def _pairs(
    rng: np.random.Generator, a_family: np.ndarray, b_family: np.ndarray, count: int
) -> dict[tuple[int, int], bool]:
    """`count` distinct pairs, each label a fair coin; then a uniform A, then a uniform B that makes the label true."""
    if count > len(a_family) * len(b_family) // 4:
        raise ValueError(f"{count} distinct pairs are too many for {len(a_family)} × {len(b_family)} entities")
    drawn: dict[tuple[int, int], bool] = {}
    while len(drawn) < count:
        label = bool(rng.integers(2))
        a = int(rng.integers(len(a_family)))
        fitting = np.flatnonzero((b_family == a_family[a]) == label)
        drawn.setdefault((a, int(rng.choice(fitting))), label ^ bool(rng.random() < FLIPPED))
    return drawn
