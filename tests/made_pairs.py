"""New pairs of new sequences for a small trained demo, and the command that predicts them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from crossllm.pipeline.data.demo import write_demo


class New(NamedTuple):
    """A run, and input that it has not seen."""

    run: Path
    cache: Path
    """Of the run."""
    folder: Path
    """rna.fasta, protein.fasta, pairs.tsv."""

    def command(self, out: str, *more: object, pairs: str = "pairs.tsv") -> list[object]:
        """`crossllm predict` of the table."""
        files = {name: self.folder / f"{name}.fasta" for name in ("rna", "protein")}
        return ["predict", self.run, "--pairs", self.folder / pairs, "--a", f"rna={files['rna']}",
                "--b", f"protein={files['protein']}", "--out", out, *more]  # fmt: skip


def new_pairs(cache: Path, folder: Path, entities: int = 12, pairs: int = 30, seed: int = 5) -> New:
    """Generated as the demo is, from another seed: other sequences, under ids of which the run's dataset has some."""
    write_demo(folder, seed=seed, entities=entities, pairs=pairs)
    return New(cache / "runs" / "demo", cache, folder)


def table(path: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))
