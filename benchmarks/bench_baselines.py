"""Seconds of each baseline that trains no network, on every public set beside the checkout, five folds each.

    python benchmarks/bench_baselines.py [--json FILE] [--data ../shared/data] [--only rpi1460,rsim]

Each set is imported and embedded by `profile` into a temporary folder and cut into five random folds.  The comparison
of the sequences is made before and timed by itself (`train` keeps it beside the dataset); what the baselines share
(k-mers, pooled rows) counts for the first that asks for it.  The claim: all together in 60 s or less on two cores;
on a machine that others use too, half of the CPU seconds says what the wall clock cannot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import choose_recipe
from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline.baselines.material import Material, cut
from crossllm.pipeline.baselines.registry import BASELINES, NETWORKS
from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.evaluation.metrics import METRICS, summarise
from crossllm.pipeline.splits.choosing import similarities_of
from crossllm.pipeline.splits.options import SplitOptions
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds
from crossllm.pipeline.training.config import TrainConfig

SETS = {
    "rpi488": ("rna", "protein"),
    "rpi1460": ("rna", "protein"),
    "rpi1807": ("rna", "protein"),
    "rsim": ("rna", "molecule"),
    "plant_mlnc": ("rna", "rna"),
}
FILES = {"rna": "rna.fasta", "protein": "protein.fasta", "molecule": "molecules.smi"}
FOLDS = 5


def made(source: Path, sides: tuple[str, str], folder: Path) -> Material:
    files = [Side(modality, source / FILES[modality]) for modality in sides]
    import_dataset(ImportOptions(*files, source / "pairs.tsv", folder, on_bad="skip"))
    for modality in dict.fromkeys(sides):
        run(RunOptions(modality, folder / FILES[modality], folder, "profile", quiet=True))
    readers = [CacheReader(folder, choose_recipe(folder, modality, None)) for modality in sides]
    dataset, _ = load_dataset(folder)
    similarities = similarities_of(dataset, SplitOptions(), folder, quiet=True)
    device = torch.device("cpu")
    return Material(dataset, folder, (readers[0], readers[1]), 1, TrainConfig(), device, similarities, quiet=True)


class Measured(NamedTuple):
    wall: float
    cpu: float
    value: float
    """The first metric's mean over the folds."""


def measured(material: Material) -> dict[str, Measured]:
    dataset = material.dataset
    folds = random_folds(dataset, FOLDS, 0)
    parts = [cut_parts(dataset, folds, n, 0.15, 0) for n in range(FOLDS)]
    found = {}
    for name, fit in BASELINES[dataset.task].items():
        if name in NETWORKS:
            continue
        began = time.perf_counter(), time.process_time()
        scored = [cut(dataset, part, fit(material, part, n)) for n, part in enumerate(parts)]
        spent = since(began)
        found[name] = Measured(*spent, summarise(dataset.task, scored, 0, replicates=1)[METRICS[dataset.task][0]].mean)
    return found


def since(began: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--only", default=",".join(SETS))
    arguments = parser.parse_args()
    results = {}
    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            material = made(arguments.data / name, SETS[name], Path(folder) / name)
            results[name] = found = measured(material)
        wall, cpu = sum(one.wall for one in found.values()), sum(one.cpu for one in found.values())
        threads = torch.get_num_threads()
        print(f"{name}: {wall:.1f} s in all, {cpu:.1f} s of CPU, {FOLDS} folds, {threads} threads", flush=True)
        first = METRICS[material.dataset.task][0]
        for what, one in found.items():
            print(f"  {what:18} {one.wall:7.2f} s {one.cpu:7.2f} s of CPU   {first} {one.value:.3f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
