"""ESM-2 on the packed transformer, beside fair-esm, transformers and its own matrix products, on the CPU.

    python benchmarks/bench_embed.py [--json FILE] [--encoder esm2-650m] [--residues 4000] [--repeats 3] [--only NAME …]

Every peer makes the rows of the same proteins with the same randomly initialised weights: fair-esm's batches and those
of transformers are sorted by length and padded, to at most `--batch-tokens` tokens, as fair-esm's own extraction does.
`products_bf16` are the linear layers alone, on the packed tokens of the same batches: no engine of these layers can
beat them.  `engine_bf16_fixed` is the engine under `embed run --deterministic`.  The proteins are RPI1460's where that
set is at hand, else of random letters and lengths.  Peers take turns; medians, also of CPU time.  `--encoder
rinalmo-giga` times the engine and its products on RNAs of 3,000 nt; there is no peer for it here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.records.reading import read_records
from crossllm.embed.encoders import esm2, rinalmo
from crossllm.embed.encoders.language_model import Published
from crossllm.embed.engine.transformer import Transformer, expected_shapes

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "rpi1460" / "protein.fasta"


def sequences(encoder: str, residues: int, seed: int) -> tuple[list[str], str]:
    rng = np.random.default_rng(seed)
    if encoder.startswith("rinalmo"):
        return ["".join(rng.choice(list("ACGU"), 3000)) for _ in range(max(1, residues // 3000))], "random"
    if DATA.is_file():
        pool = [r.sequence for r in read_records(DATA, "protein", "error").distinct().values() if r.length <= 1022]
        source = "rpi1460"
    else:
        pool = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in rng.integers(30, 600, 200)]
        source = "random"
    chosen: list[str] = []
    for n in rng.permutation(len(pool)).tolist():
        if sum(map(len, chosen)) < residues:
            chosen.append(pool[n])
    return sorted(chosen, key=len), source


def batches(texts: list[str], tokens: int, padded: bool) -> Iterator[list[str]]:
    """Batches whose tokens, pads included where they are padded, are at most `tokens`."""
    batch: list[str] = []
    for text in texts:
        longest = max(map(len, [*batch, text])) + 2
        size = longest * (len(batch) + 1) if padded else sum(len(t) + 2 for t in [*batch, text])
        if batch and size > tokens:
            yield batch
            batch = []
        batch.append(text)
    yield batch


Peer = Callable[[], object]


def engine(
    published: Published,
    tensors: dict[str, Tensor],
    texts: list[str],
    tokens: int,
    compute: torch.dtype,
    fixed_shape: bool = False,
) -> Peer:
    form = published.forms[0]
    model = Transformer(dict(tensors), published.design, compute, torch.device("cpu"), fixed_shape=fixed_shape)
    table, alphabet = form.alphabet.table(), form.alphabet
    packed = []
    for batch in batches(texts, tokens, padded=False):
        ids = [
            np.concatenate([[alphabet.start], table[np.frombuffer(t.encode(), np.uint8)], [alphabet.end]])
            for t in batch
        ]
        packed.append((torch.from_numpy(np.concatenate(ids)), [len(i) for i in ids]))

    def run() -> list[Tensor]:
        return [model.rows(ids, lengths)[0] for ids, lengths in packed]

    run.model, run.packed = model, packed  # type: ignore[attr-defined]
    return run


def products(of: Peer) -> Peer:
    """The linear layers of an engine alone."""
    model, packed = of.model, of.packed  # type: ignore[attr-defined]
    design = model.design
    inputs = [
        (torch.randn(len(i), design.width).bfloat16(), torch.randn(len(i), design.inner).bfloat16()) for i, _ in packed
    ]

    @torch.inference_mode()
    def run() -> None:
        for x, inner in inputs:
            for layer in model._layers:
                layer.qkv(x)
                layer.out(x)
                layer.up(x)
                layer.down(inner)

    return run


def fair_esm(tensors: dict[str, Tensor], size: tuple[int, int, int], texts: list[str], tokens: int) -> Peer:
    import esm

    width, layers, heads = size
    model = esm.ESM2(num_layers=layers, embed_dim=width, attention_heads=heads, alphabet="ESM-1b").eval()
    state = model.state_dict()
    for name in state:
        if (own := esm2.published(*size).forms[0].convert({name: state[name]})) and (key := next(iter(own))) in tensors:
            state[name].copy_(tensors[key])
    convert = esm.data.Alphabet.from_architecture("ESM-1b").get_batch_converter()
    made = [convert([("", t) for t in batch])[2] for batch in batches(texts, tokens, padded=True)]

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [model(ids, repr_layers=[layers])["representations"][layers] for ids in made]

    return run


def transformers(
    tensors: dict[str, Tensor], size: tuple[int, int, int], texts: list[str], tokens: int, compute: torch.dtype
) -> Peer:
    from transformers import EsmConfig, EsmModel

    width, layers, heads = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = EsmConfig(
            vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=heads, intermediate_size=4 * width, position_embedding_type="rotary",
            token_dropout=True, layer_norm_eps=1e-5,
        )  # fmt: skip
        model = EsmModel(config, add_pooling_layer=False).eval()
    state = model.state_dict()
    for name in state:
        key = next(iter(esm2.published(*size).forms[1].convert({name: state[name]})))
        if key in tensors:
            state[name].copy_(tensors[key])
    model = model.to(compute)
    table, made = esm2.ALPHABET.table(), []
    for batch in batches(texts, tokens, padded=True):
        ids = torch.ones(len(batch), max(map(len, batch)) + 2, dtype=torch.int64)
        for row, text in zip(ids, batch, strict=True):
            row[0], row[len(text) + 1] = 0, 2
            row[1 : len(text) + 1] = torch.from_numpy(table[np.frombuffer(text.encode(), np.uint8)])
        made.append(ids)

    @torch.inference_mode()
    def run() -> list[Tensor]:
        return [model(ids, attention_mask=(ids != 1).long()).last_hidden_state for ids in made]

    return run


def check(name: str, peer: Peer, expected: Tensor) -> None:
    """The first sequence's rows agree, or the times mean nothing; this run also warms the peer up."""
    found = peer()[0].float()  # type: ignore[index]
    found = found[0] if found.ndim == 3 else found
    length = min(len(found), len(expected))
    short = min(40, length)
    far = float((found[:short] - expected[:short]).abs().max() / expected[:short].abs().max())
    print(f"{name}: first rows differ by {far:.1e} of the largest", flush=True)
    if far > (1e-1 if "bf16" in name else 1e-3):
        raise SystemExit(f"{name} makes other rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="esm2-650m", choices=[*esm2.SIZES, *rinalmo.SIZES])
    for name, value in (("residues", 4000), ("batch-tokens", 4096), ("repeats", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    module = rinalmo if arguments.encoder in rinalmo.SIZES else esm2
    size = module.SIZES[arguments.encoder]
    published = module.published(*size)
    tensors = {n: torch.randn(s) * (0.02 if len(s) > 1 else 0.1) for n, s in expected_shapes(published.design).items()}
    tensors |= {n: t + 1 for n, t in tensors.items() if n.endswith("norm.weight")}
    tensors |= {n: torch.ones(1) for n in tensors if n.endswith(".beta")}
    texts, source = sequences(arguments.encoder, arguments.residues, arguments.seed)
    residues, budget = sum(map(len, texts)), arguments.batch_tokens
    makers: dict[str, Callable[[], Peer]] = {
        "engine_fp32": lambda: engine(published, tensors, texts, budget, torch.float32),
        "engine_bf16": lambda: engine(published, tensors, texts, budget, torch.bfloat16),
        "engine_bf16_fixed": lambda: engine(published, tensors, texts, budget, torch.bfloat16, fixed_shape=True),
        "products_bf16": lambda: products(peers["engine_bf16"]),
    }
    if module is esm2:
        makers |= {
            "fair_esm": lambda: fair_esm(tensors, size, texts, budget),
            "transformers_fp32": lambda: transformers(tensors, size, texts, budget, torch.float32),
            "transformers_bf16": lambda: transformers(tensors, size, texts, budget, torch.bfloat16),
        }
    print(f"{len(texts)} sequences, {residues} residues ({source}), {torch.get_num_threads()} threads", flush=True)
    peers: dict[str, Peer] = {}
    for name, make in makers.items():
        if arguments.only is None or name in arguments.only or name.startswith("engine"):
            peers[name] = make()
            if name == "engine_fp32":
                expected = peers[name]()[0]  # type: ignore[index]
            elif name != "products_bf16":
                check(name, peers[name], expected)
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    cpu: dict[str, list[float]] = {name: [] for name in peers}
    for repeat in range(arguments.repeats):
        for name, peer in peers.items():
            start, begun = time.perf_counter(), time.process_time()
            peer()
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - begun)
        print(f"repeat {repeat + 1} of {arguments.repeats}", flush=True)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    worked = {name: statistics.median(taken) for name, taken in cpu.items()}
    for name, taken in medians.items():
        print(
            f"{name:20}{taken:9.2f} s {residues / taken:8.0f} residues/s"
            f"{taken / medians['engine_bf16']:9.2f} × engine_bf16,"
            f"{worked[name] / worked['engine_bf16']:6.2f} × its CPU time"
        )
    if arguments.json:
        shapes = {"encoder": arguments.encoder, "width": size[0], "layers": size[1], "sequences": len(texts)}
        found = {
            "seconds": medians,
            "raw": seconds,
            "cpu": cpu,
            "shapes": shapes,
            "residues": residues,
            "cores": os.cpu_count(),
        }
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
