"""All against all: N × M pairs by encoding each entity once and fusing, beside one pair at a time.

    python benchmarks/bench_screen.py [--json FILE] [--entities 300] [--sampled 300] [--d-model 32] [--fusion NAME]

The entities are the demo's: RNAs and proteins embedded by `profile`, at residue level.  One pair at a time is measured
on `--sampled` pairs and scaled to all; the logits of both ways are compared.  Encoder runs are counted, not assumed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossllm.cache import CacheReader, list_recipes
from crossllm.embed.run.run import RunOptions, run
from crossllm.model import InteractionModel, ModelConfig
from crossllm.model.batch import Packed, gather
from crossllm.model.settings import FUSIONS
from crossllm.pipeline.data.demo import write_demo

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
    args = parser.parse_args()
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


if __name__ == "__main__":
    main()
