"""A training step on RPI1460's pairs: packed with shared entities, packed without sharing, and padded mambapy blocks.

    python benchmarks/bench_train.py [--json FILE] [--data ../shared/data/rpi1460] [--d-model 128] [--tokens window:8]
                                     [--pairs 32] [--steps 5] [--peer-pairs 4] [--epoch]

All three have the same weights and compute the same logits (checked).  Embeddings are random, 1,280 wide, in a cache
written to a temporary folder; lengths are RPI1460's.  A step is forward, backward and AdamW, on batches that the
training's own sampler cut.  `waiting` is the share of the time in which the next batch was not ready.  The padded
peer works on `--peer-pairs` pairs at a time, as it would run out of memory otherwise; all times are for a whole step.
With `--epoch` there are no peers: one epoch over all pairs, its time and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mambapy.mamba import MambaBlock, MambaConfig
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from crossllm.cache import CacheReader, CacheWriter, Recipe
from crossllm.cache.console.machine import keep_freed_memory
from crossllm.cache.records.id_table import read_table
from crossllm.model import Batch, InteractionModel, ModelConfig, focal_loss
from crossllm.model.batch import Packed, gather
from crossllm.model.bimamba import BiMamba, Mamba
from crossllm.model.interaction import joins_pairs
from crossllm.model.tokens import parse_tokens
from crossllm.pipeline.data.dataset import Dataset, load_dataset
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.prefetch import WaitTime
from crossllm.pipeline.training.sampler import Bounds, shuffled_batches

WIDTH = 1280


class Padded(nn.Module):
    """The same model on padded batches and mambapy's blocks; each pair's entities are encoded for that pair alone."""

    def __init__(self, model: InteractionModel) -> None:
        super().__init__()
        self.model = model
        self.blocks = nn.ModuleDict()
        for name, module in model.named_modules():
            if isinstance(module, Mamba):
                config = MambaConfig(len(module.D) // 2, 1, d_state=module.d_state)
                self.blocks[name.replace(".", "/")] = block = MambaBlock(config)
                block.load_state_dict(module.state_dict())
        self.names = {module: name.replace(".", "/") for name, module in model.named_modules()}

    def forward(self, batch: Batch) -> Tensor:
        """(P,)."""
        m = self.model
        a = self._stack(m.encoder_a, m.project_a(m.standardise_a(_padded(batch.a, batch.a_index))), _lengths(batch)[0])
        b = self._stack(m.encoder_b, m.project_b(m.standardise_b(_padded(batch.b, batch.b_index))), _lengths(batch)[1])
        lengths = torch.stack(_lengths(batch))
        pairs = zip(a, b, *lengths.tolist(), strict=True)
        joined = pad_sequence([torch.cat([x[:i], y[:j]]) for x, y, i, j in pairs], True)
        total = lengths.sum(0)
        mixed = self._stack(m.fusion.mixer, joined, total)
        inside = torch.arange(mixed.shape[1]) < total[:, None]
        pooled = m.fusion.norm((mixed * inside[..., None]).sum(1) / total[:, None])
        logit: Tensor = m.head(pooled)[:, 0]
        return logit

    def _stack(self, blocks: nn.ModuleList, x: Tensor, lengths: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        turned = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)[..., None]
        for block in blocks:
            assert isinstance(block, BiMamba)
            normed = block.norm(x)
            y = self.blocks[self.names[block.fwd]](normed)
            back = self.blocks[self.names[block.bwd]](normed.gather(1, turned.expand_as(normed)))
            x = x + y + back.gather(1, turned.expand_as(back))
        return x


def _lengths(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.a.offsets.diff()[batch.a_index], batch.b.offsets.diff()[batch.b_index]


def _padded(side: Packed, index: Tensor) -> Tensor:
    own = gather(side, index)
    return pad_sequence(list(own.tokens.float().split(own.offsets.diff().tolist())), True)


def unshared(batch: Batch) -> Batch:
    """The same pairs, each with entities of its own."""
    each = torch.arange(len(batch.label))
    a, b = gather(batch.a, batch.a_index), gather(batch.b, batch.b_index)
    return batch._replace(a=a, b=b, a_index=each, b_index=each)


def write_cache(data: Path, cache: Path) -> tuple[Dataset, tuple[CacheReader, CacheReader]]:
    """The pairs of a dataset, and random rows of the lengths of its sequences."""
    sides = [Side(modality, data / f"{modality}.fasta") for modality in ("rna", "protein")]
    import_dataset(ImportOptions(sides[0], sides[1], data / "pairs.tsv", cache))
    dataset, _ = load_dataset(cache, "error")
    rng = np.random.default_rng(0)
    readers = []
    for side in sides:
        recipe = Recipe(side.modality, "random", 1, WIDTH)
        with CacheWriter(cache, recipe) as out:
            for key, length in sorted(set(read_table(cache, side.modality).values())):
                out.add(key, rng.standard_normal((length, WIDTH), np.float32).astype(np.float16))
        readers.append(CacheReader(cache, recipe))
    return dataset, (readers[0], readers[1])


def step(model: nn.Module, parts: list[Batch], optimiser: torch.optim.Optimizer) -> float:
    """Seconds of one step over a batch given in parts."""
    began = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    for part in parts:
        focal_loss(model(part), part.label).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/rpi1460"))
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--tokens", default="window:8")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peer-pairs", type=int, default=4)
    parser.add_argument("--epoch", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()  # as `train` does; the peers have it too
    torch.manual_seed(0)
    window = parse_tokens(args.tokens)
    if window is None:
        raise SystemExit("--tokens auto is not fixed; name a window")
    with tempfile.TemporaryDirectory() as folder:
        dataset, readers = write_cache(args.data, Path(folder) / "rpi1460")
        batches = PairBatches.of_dataset(dataset, readers, window)
        config = ModelConfig(d_model=args.d_model, dropout=0.0, noise=0.0)
        bounds = Bounds(args.pairs, TrainConfig().batch_tokens, joins_pairs(config))
        everything = np.arange(len(dataset.labels))
        parts = shuffled_batches(everything, batches.sides, bounds, TrainConfig().sharing, np.random.default_rng(0))
        model = InteractionModel(WIDTH, WIDTH, config)
        if args.epoch:
            print_epoch(model, batches, parts, args)
            return
        found, pairs = compare(model, batches, parts[: args.steps], args.peer_pairs)
        waiting = epoch_waiting(model, batches, parts[: 4 * args.steps])
    print(f"RPI1460, {args.tokens}, d_model {args.d_model}, {pairs:.1f} pairs a step")
    print(f"{torch.get_num_threads()} threads, load of the machine {os.getloadavg()[0]:.1f}")
    for name, value in found.items():
        print(f"{name:18}{value:9.3f} s  {value / found['ours']:6.1f} × ours")
    print(f"waiting for data: {waiting:.1%}")
    if args.json:
        shapes = {"d_model": args.d_model, "tokens": args.tokens, "pairs": pairs, "width": WIDTH}
        body = {"shapes": shapes, "steps": args.steps, "seconds": found, "waiting": waiting}
        args.json.write_text(json.dumps(body, indent=1))


def compare(
    model: InteractionModel, batches: PairBatches, parts: list[np.ndarray], peer_pairs: int
) -> tuple[dict[str, float], float]:
    """Median seconds a step of each peer, in turns over the same batches, and the mean pairs a step."""
    padded = Padded(model)
    peers: dict[str, tuple[nn.Module, Callable[[np.ndarray], list[Batch]]]] = {
        "ours": (model, lambda pairs: [batches.collate(pairs)]),
        "ours_no_sharing": (model, lambda pairs: [unshared(batches.collate(pairs))]),
        "mambapy_padded": (
            padded,
            lambda pairs: [batches.collate(pairs[n : n + peer_pairs]) for n in range(0, len(pairs), peer_pairs)],
        ),
    }
    with torch.inference_mode():
        few = batches.collate(parts[0][:peer_pairs])
        difference = float((model(few) - padded(few)).abs().max() / model(few).abs().max())
    if difference > 1e-3:
        raise SystemExit(f"the peers disagree by {difference:.1e}")
    times: dict[str, list[float]] = {name: [] for name in peers}
    optimisers = {name: torch.optim.AdamW(peer.parameters(), 1e-5) for name, (peer, _) in peers.items()}
    for number, pairs in enumerate([parts[0], *parts]):
        for name, (peer, made) in peers.items():
            taken = step(peer, made(pairs), optimisers[name])
            if number:  # the first is a warm-up
                times[name].append(taken)
    return {name: statistics.median(own) for name, own in times.items()}, float(np.mean([len(p) for p in parts]))


def print_epoch(
    model: InteractionModel, batches: PairBatches, parts: list[np.ndarray], args: argparse.Namespace
) -> None:
    """Time of one epoch, its share of waiting, and the most memory that the process has taken."""
    began = time.perf_counter()
    waiting = epoch_waiting(model, batches, parts)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pairs = sum(map(len, parts))
    print(f"RPI1460, {args.tokens}, d_model {args.d_model}: an epoch of {pairs} pairs in {len(parts)} steps")
    print(f"{torch.get_num_threads()} threads, load of the machine {os.getloadavg()[0]:.1f}")
    print(f"{seconds:.1f} s, {waiting:.1%} of it waiting for data, at most {peak / 2**30:.2f} GiB")
    if args.json:
        shapes = {"d_model": args.d_model, "tokens": args.tokens, "pairs": pairs, "width": WIDTH}
        body = {"shapes": shapes, "steps": len(parts), "seconds": {"epoch": seconds}, "waiting": waiting}
        args.json.write_text(json.dumps(body | {"peak_bytes": peak}, indent=1))


def epoch_waiting(model: InteractionModel, batches: PairBatches, parts: list[np.ndarray]) -> float:
    """Share of the time of these steps in which the next batch was not ready."""
    batches.waiting = WaitTime()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-5)
    for batch in batches.stream(parts):
        step(model, [batch], optimiser)
    return batches.waiting.share


if __name__ == "__main__":
    main()
