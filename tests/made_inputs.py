"""Small made-up input files, under the names that README.md and docs/guide use."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from crossllm.embed.run.run import RunOptions, run

SMILES = ("CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "NCC(=O)O", "C1CCCCC1")
DIM = 8
"""Width of the embeddings made elsewhere."""


def write_inputs(folder: Path) -> None:
    """Every file that a page reads and does not write itself; of README.md's Python, the cache too."""
    rng = random.Random(0)
    rna = _sequences(rng, "r", "ACGU", 8)
    protein = _sequences(rng, "p", "ACDEFGHIKLMNPQRSTVWY", 8)
    _fasta(folder / "rna.fasta", rna)
    _fasta(folder / "protein.fasta", protein)
    _fasta(folder / "seqs.fasta", {"s1": "GGAUCACGU", "s2": "ACGUACGUUU", "s3": "UUUACG"})
    run(RunOptions("rna", folder / "seqs.fasta", folder / "cache" / "seqs", "profile", quiet=True))
    _fasta(folder / "shard0.fasta", dict(list(rna.items())[:5]))
    _fasta(folder / "shard1.fasta", dict(list(rna.items())[4:]))
    rows = [(a, b, rng.randrange(2), n % 4, "ath" if n % 8 else "gma")
            for n, (a, b) in enumerate((a, b) for a in rna for b in protein)]  # fmt: skip
    _table(folder / "pairs.tsv", "\t", ("a_id", "b_id", "label", "fold", "species"), rows)
    _table(folder / "known.tsv", "\t", ("a_id", "b_id"), [(f"r{n % 8}", f"p{(n * 3 + n // 8) % 8}") for n in range(16)])
    new = random.Random(1)
    new_rna, new_protein = _sequences(new, "n", "ACGU", 4), _sequences(new, "q", "ACDEFGHIKLMNPQRSTVWY", 5)
    _fasta(folder / "new_rna.fasta", new_rna)
    _fasta(folder / "new_protein.fasta", new_protein)
    pairs = [(a, b, f"batch {n % 2}") for n, (a, b) in enumerate((a, b) for a in (*new_rna, "r0") for b in new_protein)]
    _table(folder / "new.tsv", "\t", ("a_id", "b_id", "note"), pairs)
    measured_pairs = [(a, b, n % 2) for n, (a, b) in enumerate((a, b) for a in new_rna for b in new_protein)]
    _table(folder / "measured.tsv", "\t", ("a_id", "b_id", "label"), measured_pairs)
    mirna, lncrna = _sequences(rng, "mi", "ACGU", 4), _sequences(rng, "lnc", "ACGU", 4)
    _fasta(folder / "mirna.fasta", mirna)
    _fasta(folder / "lncrna.fasta", lncrna)
    targets = [(a, b, rng.randrange(2), "ath" if n % 4 else "gma")
               for n, (a, b) in enumerate((a, b) for a in mirna for b in lncrna)]  # fmt: skip
    _table(folder / "targets.csv", ",", ("mirna", "lncrna", "interacts", "species"), targets)
    molecules = {f"m{n}": smiles for n, smiles in enumerate(SMILES)}
    (folder / "molecules.smi").write_text("".join(f"{id_}\t{smiles}\n" for id_, smiles in molecules.items()))
    affinities = [(a, b, round(rng.uniform(2, 9), 3), "Aptamers" if n % 2 else "miRNA")
                  for n, (a, b) in enumerate((a, b) for a in rna for b in molecules)]  # fmt: skip
    _table(folder / "affinities.tsv", "\t", ("a_id", "b_id", "label", "subtype"), affinities)
    measured = [(rna[a], molecules[b], value) for a, b, value, _ in affinities[:20]]
    _table(folder / "table.csv", ",", ("rna_sequence", "smiles", "pKd"), measured)
    _hdf5(folder / "rnafm.h5", rna)


def _sequences(rng: random.Random, prefix: str, alphabet: str, count: int) -> dict[str, str]:
    return {f"{prefix}{n}": "".join(rng.choices(alphabet, k=rng.randint(12, 24))) for n in range(count)}


def _fasta(path: Path, sequences: Mapping[str, str]) -> None:
    path.write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in sequences.items()))


def _table(path: Path, delimiter: str, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in (header, *rows)))


def _hdf5(path: Path, sequences: Mapping[str, str]) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for id_, sequence in sequences.items():
            file[id_] = rng.normal(size=(len(sequence), DIM)).astype(np.float16)
