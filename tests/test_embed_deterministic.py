"""`embed run --deterministic`: rows that depend neither on what is computed with them nor on the number of threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from made_weights import design_tensors, random_tensors, rnabert_shapes
from safetensors.torch import save_file
from test_embed_layers import write_fasta
from torch import Tensor

from crossllm.cache import CacheReader, InputError, list_recipes, read_table
from crossllm.embed.encoder import FIXED
from crossllm.embed.encoders import esm2, language_model
from crossllm.embed.engine.fixed import ROWS, TOGETHER, FixedProduct, share
from crossllm.embed.engine.linear import Linear, packed
from crossllm.embed.engine.transformer import Transformer
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run

LENGTHS = (1, 3, 40, TOGETHER + 90, 1, 200)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _rows(model: Transformer, ids: Tensor, batches: list[int], threads: int) -> Tensor:
    """The rows of the sequences of `LENGTHS`, cut into batches of so many sequences."""
    torch.set_num_threads(threads)
    found, row, place = [], 0, 0
    for count in batches:
        own = LENGTHS[place : place + count]
        found.append(model.rows(ids[row : row + sum(own)], own)[0])
        row, place = row + sum(own), place + count
    return torch.cat(found)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_the_same_bits_in_every_batch_and_on_any_threads(compute: str, rng: np.random.Generator) -> None:
    published = esm2.published(320, 3, 20)
    tensors, kind = design_tensors(published, rng), getattr(torch, compute)
    ids = torch.from_numpy(rng.integers(4, 24, sum(LENGTHS)))
    models = {
        fixed: Transformer(dict(tensors), published.design, kind, torch.device("cpu"), fixed_shape=fixed)
        for fixed in (True, False)
    }
    whole = _rows(models[True], ids, [len(LENGTHS)], 1)
    for batches in ([1] * 6, [2, 3, 1], [6]):
        for threads in (1, 2, 3):
            assert torch.equal(_rows(models[True], ids, batches, threads), whole), (batches, threads)
    plain = _rows(models[False], ids, [6], 1)
    off = float((plain - whole).abs().max() / plain.abs().max())
    assert off < (1e-5 if compute == "float32" else 3e-2)
    if (
        compute == "float32"
        and torch.backends.mkldnn.is_available()
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
    ):
        # oneDNN takes another way for a call of one row: the effect that the flag is there to do away with.
        assert not torch.equal(_rows(models[False], ids, [1] * 6, 1), plain)


def test_every_call_has_the_same_shape_and_one_thread(rng: np.random.Generator) -> None:
    torch.set_num_threads(2)
    seen = set()

    class Seen(Linear):
        def __call__(self, x: Tensor) -> Tensor:
            seen.add((tuple(x.shape), torch.get_num_threads()))
            return super().__call__(x)

    weight, x = (torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)) for n in (5, 3 * ROWS + 7))
    found = FixedProduct(Seen(weight, None), 5)(x)
    assert seen == {((ROWS, 8), 1)}
    assert torch.get_num_threads() == 2
    torch.testing.assert_close(found, packed(Linear(weight, None))(x))


def test_an_error_in_any_thread_is_raised_and_the_threads_are_put_back() -> None:
    torch.set_num_threads(3)
    for bad in range(6):
        done = []

        def call(n: int, bad: int = bad, done: list[int] = done) -> None:
            if n == bad:
                raise MemoryError("no room")
            done.append(n)

        with pytest.raises(MemoryError, match="no room"):
            share(call, [1] * 6)
        assert torch.get_num_threads() == 3
    share(done.append, [1])  # fewer calls than threads
    assert done[-1] == 0


def test_a_run_with_the_flag_is_a_recipe_of_its_own_that_later_runs_follow(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    sequences = {"a": "A", "b": "ACGUACGU", "c": "ACGU" * 100, "d": "G"}
    fasta = write_fasta(tmp_path / "in.fasta", sequences)
    asked = RunOptions("rna", fasta, tmp_path / "1", "rnabert", weights, quiet=True, options={"products": FIXED})
    run(asked)
    alone = dataclasses.replace(asked, cache_dir=tmp_path / "2", batch_tokens=1)
    run(alone)
    folders = [tmp_path / "1", tmp_path / "2"]
    (recipe,), (other,) = (list_recipes(folder, "rna") for folder in folders)
    assert recipe == other
    assert recipe.options == {"products": FIXED}
    for name in sequences:
        first, second = (CacheReader(f, recipe)[read_table(f, "rna")[name].key] for f in folders)
        assert first.tobytes() == second.tobytes()
    run(dataclasses.replace(asked, options={}))  # which finds nothing to do
    assert list_recipes(tmp_path / "1", "rna") == [recipe]
    monkeypatch.setattr(language_model, "device_of", lambda _: torch.device("meta"))
    with pytest.raises(InputError, match="for the CPU; use --device cpu"):
        run(dataclasses.replace(asked, cache_dir=tmp_path / "3", device="cuda"))


def test_an_encoder_without_the_switch_says_so(tmp_path: Path, program: Program) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU"})
    line = ["run", "--modality", "rna", "--input", str(fasta), "--encoder", "profile", "--deterministic"]
    done = program("embed", *line, "--cache", str(tmp_path / "c"))
    assert done.returncode == 2
    assert "profile has no 'products=fixed-256' (--deterministic); it has: none" in done.stderr
