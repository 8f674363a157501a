from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from made_weights import load, random_tensors, rnabert_shapes, rows_of
from safetensors.torch import save_file
from torch import Tensor

from crossllm.cache import CacheReader, Conflict, InputError, choose_recipe, record_of
from crossllm.cache.records.id_table import read_table
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run

TOLERANCE = 1e-5
"""Absolute, on rows of order one in float32."""
SEQUENCES = ("A", "GG", "GGAUCACGUUUGCA", "GGANCACGRUUGCX", "ACGU" * 100, "GCU" * 130, "AC" * 220)


def author_names(tensors: Mapping[str, Tensor], module: bool) -> dict[str, Tensor]:
    """The names of the published `.pth`, with the heads that it holds as well."""
    found = {"bert.pooler.dense.bias": torch.zeros(120), "cls.predictions.bias": torch.zeros(6)}
    for name, tensor in tensors.items():
        name = re.sub(r"layer_norm\.weight", "LayerNorm.gamma", name.replace(".self.", ".selfattn."))
        found["bert." + re.sub(r"layer_norm\.bias", "LayerNorm.beta", name)] = tensor
    return {("module." if module else "") + name: tensor for name, tensor in found.items()}


@pytest.fixture
def weights(tmp_path: Path, rng: np.random.Generator) -> Path:
    save_file(random_tensors(rnabert_shapes(), rng), tmp_path / "rnabert.safetensors")
    return tmp_path / "rnabert.safetensors"


def plain_bert(ids: list[int], weights: Mapping[str, Tensor]) -> np.ndarray:
    """One sequence in float64, head by head and query by query, as the paper's BERT is defined."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    letters, places = w["embeddings.word_embeddings.weight"], w["embeddings.position_embeddings.weight"]
    kind = w["embeddings.token_type_embeddings.weight"][0]
    x = norm(np.stack([letters[t] + places[n] + kind for n, t in enumerate(ids)]), "embeddings.layer_norm")
    size = 120 // 12
    for n in range(6):
        name = f"encoder.layer.{n}"
        q, k, v = (linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for head in range(12):
            own = slice(head * size, (head + 1) * size)
            for i in range(len(ids)):
                score = k[:, own] @ q[i, own] / math.sqrt(size)
                share = np.exp(score - score.max())
                mixed[i, own] = share / share.sum() @ v[:, own]
        x = norm(x + linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.layer_norm")
        inner = linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.layer_norm")
    return x


def test_letters_are_the_tokens_of_the_published_vocabulary(weights: Path) -> None:
    """A U G C = 2 … 5, and <mask> = 1 for what may be several."""
    encoder = load("rna", "rnabert", weights)
    (found,) = rows_of(encoder, [record_of("rna", "x", "AUGCNRX")])
    assert np.abs(found - plain_bert([2, 3, 4, 5, 1, 1, 1], load_tensors(weights))).max() < TOLERANCE
    assert dict(encoder.notes) == {"with letters that have no token, encoded as <mask>": 1}


def test_rows_are_the_same_alone_batched_and_in_any_company(weights: Path) -> None:
    records = [record_of("rna", s, s) for s in SEQUENCES]
    together = rows_of(load("rna", "rnabert", weights), records)
    small = rows_of(load("rna", "rnabert", weights, batch_tokens=1), records)
    for record, rows, other in zip(records, together, small, strict=True):
        (alone,) = rows_of(load("rna", "rnabert", weights), [record])
        assert rows.shape == (record.length, 120)
        assert np.abs(rows - alone).max() < TOLERANCE
        assert np.abs(rows - other).max() < TOLERANCE


def test_padding_of_the_published_code_changes_rows_and_has_its_own_recipe(weights: Path) -> None:
    record = record_of("rna", "x", "GGAUCACG")
    padded = load("rna", "rnabert", weights, options={"attention": "padded-440"})
    (own,), (theirs,) = rows_of(load("rna", "rnabert", weights), [record]), rows_of(padded, [record])
    expected = plain_bert([4, 4, 2, 3, 5, 2, 5, 4] + [0] * 432, load_tensors(weights))
    assert np.abs(theirs - expected[:8]).max() < TOLERANCE
    assert np.abs(own - theirs).max() > 1e-2


def load_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))


@pytest.mark.parametrize("form", ["bare", "module", "under model"])
def test_every_published_spelling_of_the_names_gives_the_same_bits(form: str, weights: Path, tmp_path: Path) -> None:
    held: dict[str, object] = dict(author_names(load_tensors(weights), module=form == "module"))
    torch.save({"model": held} if form == "under model" else held, tmp_path / "w.pth")
    records = [record_of("rna", s, s) for s in SEQUENCES]
    ours, theirs = (rows_of(load("rna", "rnabert", path), records) for path in (weights, tmp_path / "w.pth"))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_stitched_rows_come_from_the_windows(weights: Path, rng: np.random.Generator) -> None:
    sequence = "".join(rng.choice(list("ACGU"), 1000))
    encoder = load("rna", "rnabert", weights, long="window:440:220")
    (rows,) = rows_of(encoder, [record_of("rna", "x", sequence)])
    tensors = load_tensors(weights)
    starts, cuts = [0, 220, 440, 560], [0, 330, 550, 720, 1000]
    for n, start in enumerate(starts):
        own = plain_bert([2 + "AUGC".index(letter) for letter in sequence[start : start + 440]], tensors)
        kept = slice(cuts[n], cuts[n + 1])
        assert np.abs(rows[kept] - own[cuts[n] - start : cuts[n + 1] - start]).max() < TOLERANCE


def write(path: Path, **sequences: str) -> Path:
    path.write_text("".join(f">{i}\n{s}\n" for i, s in sequences.items()))
    return path


def test_too_long_is_one_line_each_before_anything_is_written(program: Program, tmp_path: Path, weights: Path) -> None:
    write(tmp_path / "a.fasta", short="ACGU", x="A" * 441, y="AC" * 2000, same="A" * 441)
    command = ("embed", "run", "--modality", "rna", "-i", "a.fasta", "--encoder", "rnabert", "--weights", weights)
    for flags in ((), ("--long", "error")):
        done = program(*command, *flags)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "error: a.fasta: 441 nucleotides, rnabert takes 440 (record x); "
            "embed it in overlapping windows with --long window, or its first 440 alone with --long truncate",
            "error: a.fasta: 4000 nucleotides, rnabert takes 440 (record y); see --long",
        ]
        assert not (tmp_path / "cache").exists()
    done = program(*command, "--long", "window", "--batch-tokens", "700")
    assert done.returncode == 0, done.stderr
    reader = CacheReader(tmp_path / "cache" / "a", choose_recipe(tmp_path / "cache" / "a", "rna"))
    assert reader.recipe.long == "window:440:220"
    assert len(reader[read_table(tmp_path / "cache" / "a", "rna")["y"].key]) == 4000


def test_a_run_follows_the_caches_long_and_options(tmp_path: Path, weights: Path) -> None:
    fasta = write(tmp_path / "a.fasta", x="ACGU" * 200)
    plain = RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights)
    asked = dataclasses.replace(plain, long="window", options={"attention": "padded-440"})
    first = run(asked)
    write(fasta, x="ACGU" * 200, y="GGCA" * 150)
    second = run(plain)
    assert (second.recipes[0].recipe, second.already, second.embedded) == (first.recipes[0].recipe, 1, 1)
    with pytest.raises(Conflict, match="long: whole, not window:440:220"):
        run(dataclasses.replace(plain, long="error"))
    with pytest.raises(Conflict, match=r"options: \{\}, not \{'attention': 'padded-440'\}"):
        run(dataclasses.replace(plain, options={"attention": "masked"}))
    other = run(dataclasses.replace(plain, options={"attention": "masked"}, new_recipe=True))
    assert (other.embedded, other.recipes[0].recipe == first.recipes[0].recipe) == (2, False)


def test_weights_are_part_of_the_recipe(tmp_path: Path, weights: Path, rng: np.random.Generator) -> None:
    fasta = write(tmp_path / "a.fasta", x="ACGU")
    first = run(RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights))
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    second = run(RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights))
    assert second.embedded == 1
    assert first.recipes[0].recipe != second.recipes[0].recipe


def test_a_run_with_nothing_to_do_loads_no_weights(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RunOptions("rna", write(tmp_path / "a.fasta", x="ACGU"), tmp_path / "c", "rnabert", weights)
    run(options)
    monkeypatch.delattr("crossllm.embed.weights.checkpoint.read_weights")
    assert run(options).already == 1


def test_notes_count_each_sequence_once(program: Program, tmp_path: Path, weights: Path) -> None:
    write(tmp_path / "a.fasta", x="ACGN", y="ACGN", z="RRR", w="ACGU")
    command = ("embed", "run", "--modality", "rna", "-i", "a.fasta", "--encoder", "rnabert", "--weights", weights)
    done = program(*command)
    assert done.returncode == 0, done.stderr
    assert "note: a.fasta: 2 sequences: with letters that have no token, encoded as <mask>" in done.stderr.splitlines()
    assert "<mask>" not in program(*command).stderr, "nothing was encoded the second time"


BAD_FLAGS = {
    "--option attention=sideways": "rnabert has no 'attention=sideways'; it has: attention=masked|padded-440",
    "--option colour=red": "rnabert has no 'colour=red'",
    "--option attention": "'attention' is not KEY=VALUE",
    "--option attention=masked --option attention=padded-440": "one switch is given two values",
    "--device warp": "--device warp",
    "--device meta": "--device meta",
    "--device hpu": "--device hpu",
    "--batch-tokens 0": "--batch-tokens",
    "--long shorten": "'shorten' is not one of",
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_bad_flags_are_one_line(flags: str, program: Program, tmp_path: Path, weights: Path) -> None:
    write(tmp_path / "a.fasta", x="ACGU")
    command = ("embed", "run", "--modality", "rna", "-i", "a.fasta", "--encoder", "rnabert", "--weights", weights)
    done = program(*command, *flags.split(), "--quiet")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert BAD_FLAGS[flags] in done.stderr
    assert not (tmp_path / "cache").exists()


def test_profile_has_no_limit_and_no_options(tmp_path: Path) -> None:
    plain = RunOptions("rna", write(tmp_path / "a.fasta", x="ACGU"), tmp_path / "c", "profile")
    with pytest.raises(InputError, match="takes sequences of any length whole"):
        run(dataclasses.replace(plain, long="window"))
    with pytest.raises(InputError, match="profile has no 'a=b'; it has: none"):
        run(dataclasses.replace(plain, options={"a": "b"}))
    assert run(dataclasses.replace(plain, long="error")).embedded == 1


def test_the_published_weights_give_the_published_rows(real_data: Path) -> None:
    """golden_AAA.npy is the authors' own output for AAA, which attends to 437 pads; measured difference 4.4e-7."""
    folder = real_data / "weights" / "rnabert"
    golden = np.load(folder / "golden_AAA.npy")
    found = []
    for name in ("RNABERT.pth", "bert_mul_2.pth", "rnabert_multimolecule_vocab6.safetensors"):
        encoder = load("rna", "rnabert", folder / name, options={"attention": "padded-440"})
        found += rows_of(encoder, [record_of("rna", "x", "AAA")])
        assert np.abs(found[-1] - golden).max() < 1e-5
    assert all(rows.tobytes() == found[0].tobytes() for rows in found)
    (masked,) = rows_of(load("rna", "rnabert", folder / "RNABERT.pth"), [record_of("rna", "x", "AAA")])
    assert np.abs(masked - golden).max() > 0.1, "without the pads the rows are others"
