"""`embed run` by one process, and by one and two workers of a Dask cluster: throughput, and what the scheduler costs.

    python benchmarks/bench_scale.py [--json FILE] [--sequences 40000] [--batches 300] [--repeats 3]

The encoder is `profile`, random proteins of 50 to 600 residues, each run into a cache of its own.  Workers have a core
each; what a cluster takes to come up and to be left is measured beside it, and taken off.  The overhead is that of
batches in which nothing is done, sent and answered as all are.  Peers take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossllm.cache.cluster.address import parse_cluster
from crossllm.cache.cluster.opening import LocalWorkers, opened
from crossllm.cache.cluster.sending import Sender
from crossllm.cache.cluster.task_plugin import TaskPlugin
from crossllm.embed.run.run import RunOptions, run


def write_proteins(path: Path, count: int, rng: np.random.Generator) -> int:
    letters, residues = np.array(list("ACDEFGHIKLMNPQRSTVWY")), 0
    with path.open("w") as file:
        for n, length in enumerate(rng.integers(50, 600, count).tolist()):
            file.write(f">p{n}\n{''.join(rng.choice(letters, length))}\n")
            residues += length
    return residues


class Nothing(TaskPlugin):
    """Does nothing, where that of `embed run --dask` encodes."""

    def work(self, number: int) -> int:
        """The number."""
        return number


def embed(fasta: Path, dask: str | None) -> float:
    """Seconds of encoding and storing; with a cluster, of its start and end too."""
    with tempfile.TemporaryDirectory() as folder:
        name = None if dask is None else parse_cluster(dask)
        return run(RunOptions("protein", fasta, Path(folder) / "cache", "profile", dask=name, quiet=True)).seconds


def start(workers: int) -> float:
    """Seconds in which a cluster of this machine comes up and is left."""
    begun = time.perf_counter()
    with opened(parse_cluster(f"local:{workers}"), LocalWorkers(workers, 1)):
        pass
    return time.perf_counter() - begun


def overhead(workers: int, batches: int) -> float:
    """Milliseconds that a batch of nothing takes, sent and answered as `embed run --dask` does it."""
    with opened(parse_cluster(f"local:{workers}"), LocalWorkers(workers, 1)) as cluster:
        sender = Sender[int](cluster, "bench")
        with sender.registered(Nothing()):
            done, sent, begun = 0, 0, 0.0
            while done < batches + 20:  # the first twenty only warm up
                while sent < batches + 20 and len(sender) < 2 * workers + 16:
                    sender.send(sent, sent)
                    sent += 1
                if sender.answer() is not None:
                    done += 1
                    begun = time.perf_counter() if done == 20 else begun
            return 1e3 * (time.perf_counter() - begun) / batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sequences", type=int, default=40_000)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "protein.fasta"
        residues = write_proteins(fasta, asked.sequences, np.random.default_rng(0))
        peers: dict[str, Callable[[], float]] = {
            "one process": lambda: embed(fasta, None),
            "one worker": lambda: embed(fasta, "local:1"),
            "two workers": lambda: embed(fasta, "local:2"),
            "one worker, up": lambda: start(1),
            "two workers, up": lambda: start(2),
            "ms a batch": lambda: overhead(2, asked.batches),
        }
        took: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(asked.repeats):
            for name, peer in peers.items():
                took[name].append(peer())
    found = {name: statistics.median(times) for name, times in took.items()}
    one, two = (found[f"{n} worker{'s' * (n == 'two')}"] - found[f"{n} worker{'s' * (n == 'two')}, up"]
                for n in ("one", "two"))  # fmt: skip
    result = {
        "sequences": asked.sequences,
        "residues": residues,
        "seconds": found,
        "two workers against one": one / two,
        "two workers against one process": found["one process"] / two,
        "overhead_ms_a_batch": found["ms a batch"],
    }
    print(json.dumps(result, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
