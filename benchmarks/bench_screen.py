"""All against all: N × M pairs by encoding each entity once and fusing, beside one pair at a time.

    python benchmarks/bench_screen.py [--command] [--json FILE] [--entities 300] [--sampled 300] [--d-model 32]
                                      [--fusion NAME]

The entities are the demo's: RNAs and proteins embedded by `profile`, at residue level.  One pair at a time is measured
on `--sampled` pairs and scaled to all; the logits of both ways are compared.  Encoder runs are counted, not assumed.

`--command` measures `crossllm screen` as a user has it, by the two models of a short training (`--epochs`): its own
encodings, peak memory and time for `--entities` × `--entities`, beside one pair at a time by the same models.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossllm.cache import CacheReader, list_recipes, read_records
from crossllm.embed.run.run import RunOptions, run
from crossllm.model import InteractionModel, ModelConfig
from crossllm.model.batch import Packed, gather
from crossllm.model.settings import FUSIONS
from crossllm.pipeline import load_run
from crossllm.pipeline.data.demo import write_demo
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.train import train
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use.screening import ScreenOptions, screen

PAIRS_AT_ONCE = 512
"""Of the fusions whose memory grows with the pairs' tokens."""


def entities(cache: Path, modality: str, count: int) -> Packed:
    """Rows of the first `count` sequences of a modality."""
    run(RunOptions(modality, cache / f"{modality}.fasta", cache, "profile", quiet=True))
    (recipe,) = list_recipes(cache, modality)
    reader = CacheReader(cache, recipe)
    rows, offsets = reader.gather(list(reader)[:count])
    return Packed(torch.from_numpy(rows), torch.from_numpy(offsets))


class Counter:
    """How many entities went through an encoder."""

    def __init__(self, model: InteractionModel) -> None:
        self.encoded = 0
        self._encode, model._encode = model._encode, self  # type: ignore[method-assign, assignment]

    def __call__(self, *args: object) -> Packed:
        self.encoded += len(args[-1].offsets) - 1  # type: ignore[attr-defined]
        return self._encode(*args)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    for name, default in (("entities", 300), ("sampled", 300), ("d-model", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--fusion", choices=FUSIONS, default="cross_mamba")
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    if args.command:
        command(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "demo"
        write_demo(cache, entities=args.entities, pairs=args.entities)
        a, b = (entities(cache, modality, args.entities) for modality in ("rna", "protein"))
    torch.manual_seed(0)
    model = InteractionModel(a.tokens.shape[1], b.tokens.shape[1], ModelConfig(args.d_model, fusion=args.fusion)).eval()
    grid = torch.cartesian_prod(torch.arange(len(a.offsets) - 1), torch.arange(len(b.offsets) - 1))
    sampled = np.random.default_rng(0).choice(len(grid), args.sampled, replace=False)
    counter = Counter(model)
    with torch.inference_mode():
        model.fuse(model.encode_a(a), model.encode_b(b), *grid[:8].T)  # compiles the scan
        counter.encoded = 0
        began = time.perf_counter()
        encoded_a, encoded_b = model.encode_a(a), model.encode_b(b)
        at_once = PAIRS_AT_ONCE if args.fusion == "cross_attention" else len(grid)
        logits = torch.cat([model.fuse(encoded_a, encoded_b, *part.T) for part in grid.split(at_once)])
        screen, encoded = time.perf_counter() - began, counter.encoded
        began = time.perf_counter()
        alone = torch.cat([one_pair(model, a, b, pair) for pair in grid[sampled]])
        by_pair = (time.perf_counter() - began) / len(sampled) * len(grid)
    difference = float((alone - logits[sampled]).abs().max() / alone.abs().max())
    print(
        f"{args.fusion}, d_model {args.d_model}: {len(a.offsets) - 1} × {len(b.offsets) - 1} pairs, {encoded} encodings"
    )
    print(f"{torch.get_num_threads()} threads, load of the machine {os.getloadavg()[0]:.1f}")
    print(f"all against all {screen:9.2f} s\npair by pair     {by_pair:9.2f} s (of {len(sampled)}, scaled)")
    print(f"ratio {by_pair / screen:.1f}; logits differ by {difference:.1e} of the largest")
    if args.json:
        shapes = {"a": len(a.offsets) - 1, "b": len(b.offsets) - 1, "d_model": args.d_model, "fusion": args.fusion}
        seconds = {"all_against_all": screen, "pair_by_pair": by_pair}
        args.json.write_text(json.dumps({"shapes": shapes, "encodings": encoded, "seconds": seconds}, indent=1))


def one_pair(model: InteractionModel, a: Packed, b: Packed, pair: Tensor) -> Tensor:
    """The logit of one pair, its two entities encoded for it alone."""
    i, j = pair[:1], pair[1:]
    zero = torch.zeros(1, dtype=torch.int64)
    return model.fuse(model.encode_a(gather(a, i)), model.encode_b(gather(b, j)), zero, zero)


def command(args: argparse.Namespace) -> None:
    """`crossllm screen` of new entities, and some of its pairs one at a time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo(folder / "demo", entities=200, pairs=800)
        for modality in ("rna", "protein"):
            run(RunOptions(modality, folder / "demo" / f"{modality}.fasta", folder / "demo", "profile", quiet=True))
        model = ModelConfig(args.d_model, fusion=args.fusion, standardise=False)
        config = TrainConfig(folds=2, epochs=args.epochs, lr=3e-3, model=model)
        trained = train(TrainOptions(folder / "demo", config, baselines="none", quiet=True)).folder
        write_demo(folder / "new", seed=1, entities=args.entities, pairs=args.entities)
        sides = {"a": Side("rna", folder / "new" / "rna.fasta"), "b": Side("protein", folder / "new" / "protein.fasta")}
        cpu = time.process_time()
        done = screen(ScreenOptions(trained, folder / "best.tsv", **sides))
        cpu = time.process_time() - cpu  # embedding, comparing with training and writing included
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cpu_pairs = time.process_time()
        by_pair = _one_by_one(folder, trained, args)
        cpu_pairs = (time.process_time() - cpu_pairs) / args.sampled * args.entities**2
    print(f"{done.in_words()}\nscreen {done.seconds:9.2f} s, peak memory of the process {peak / 2**30:.2f} GiB")
    print(f"pair by pair {by_pair:9.2f} s (of {args.sampled}, scaled): ratio {by_pair / done.seconds:.0f}")
    print(f"in CPU time, the whole command {cpu:.2f} s, pair by pair {cpu_pairs:.2f} s: ratio {cpu_pairs / cpu:.0f}")
    if args.json:
        seconds = {"screen": done.seconds, "pair_by_pair": by_pair}
        found = {"encodings": done.encodings, "pairs": done.pairs, "peak_bytes": peak, "seconds": seconds}
        args.json.write_text(json.dumps(found, indent=1))


def _one_by_one(folder: Path, trained: Path, args: argparse.Namespace) -> float:
    """Seconds that all pairs take by each of the run's models, one pair at a time; of some of them, scaled."""
    sides = []
    for modality in ("rna", "protein"):
        (recipe,) = list_recipes(folder / "demo", modality)
        keys = [record.key for record in read_records(folder / "new" / f"{modality}.fasta", modality).records]
        rows, offsets = CacheReader(folder / "demo", recipe).gather(keys)
        sides.append(Packed(torch.from_numpy(rows), torch.from_numpy(offsets)))
    rng = np.random.default_rng(0)
    pairs = torch.from_numpy(rng.integers(0, args.entities, (args.sampled, 2)))
    folds = load_run(trained).folds
    with torch.inference_mode():
        one_pair(folds[0].model, *sides, pairs[0])
        begun = time.perf_counter()
        for fold in folds:
            for pair in pairs:
                one_pair(fold.model, *sides, pair)
    return (time.perf_counter() - begun) / len(pairs) * args.entities**2


if __name__ == "__main__":
    main()
