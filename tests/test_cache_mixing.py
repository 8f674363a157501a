"""RELIABILITY P14: what was made in another way is never taken for what is asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fault_operations import write_input
from made_weights import random_tensors, rnabert_shapes
from safetensors.torch import save_file

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Conflict, Recipe, choose_recipe, key_of, list_recipes
from crossllm.cache.records.id_table import read_table
from crossllm.cache.store.commit import commit_paths, publish_commit, read_commit
from crossllm.cache.store.recipe import write_recipe
from crossllm.embed.run.run import RunOptions, run

BASE = Recipe(
    "rna", "made", 1, 4, "0" * 64, "12", "float32", "float16", "letters", "window:440:220", 1, {"attention": "masked"}
)
OTHER = {
    "modality": "protein",
    "encoder": "other",
    "encoder_version": 2,
    "dim": 5,
    "weights": "0" * 63 + "1",
    "layer": "11",
    "compute": "bfloat16",
    "dtype": "float32",
    "tokenizer": "words",
    "long": "window:440:219",
    "normaliser": 2,
    "options": {"attention": "padded-440"},
}
"""Field → another value, the nearest there is."""
KEY = key_of("rna", "ACGU")


def test_every_field_of_a_recipe_is_tried() -> None:
    assert {field.name for field in dataclasses.fields(Recipe)} == {*OTHER, "format"}


@pytest.mark.parametrize("name", OTHER)
def test_a_recipe_that_differs_in_one_field_finds_nothing(tmp_path: Path, name: str) -> None:
    other = dataclasses.replace(BASE, **{name: OTHER[name]})
    with CacheWriter(tmp_path, BASE) as writer:
        writer.add(KEY, np.ones((4, 4)))
    assert KEY in CacheReader(tmp_path, BASE)
    assert KEY not in CacheReader(tmp_path, other)
    with CacheWriter(tmp_path, other) as writer:
        writer.add(KEY, np.full((4, other.dim), 2.0))
    assert (CacheReader(tmp_path, BASE)[KEY] == 1).all()
    assert (CacheReader(tmp_path, other)[KEY] == 2).all()
    assert other in list_recipes(tmp_path, other.modality)


@pytest.mark.parametrize("name", OTHER)
def test_a_segment_put_under_another_recipe_is_damage(tmp_path: Path, name: str) -> None:
    """By a careless copy, or a tool that means well."""
    other = dataclasses.replace(BASE, **{name: OTHER[name]})
    with CacheWriter(tmp_path, BASE) as writer:
        writer.add(KEY, np.ones((4, 4)))
    theirs = write_recipe(tmp_path, other)
    (path,) = commit_paths(BASE.folder(tmp_path))
    commit = read_commit(path)
    (BASE.folder(tmp_path) / "segments" / commit.segment).rename(theirs / "segments" / commit.segment)
    publish_commit(theirs, commit)
    with pytest.raises(CacheCorrupt, match="was written for another recipe"):
        CacheReader(tmp_path, other)[KEY]


def test_one_changed_byte_of_the_weights_is_another_recipe(tmp_path: Path, rng: np.random.Generator) -> None:
    """And one that a run never takes up by itself where the cache holds rows of the others."""
    fasta, weights = write_input(tmp_path / "cache", 2), tmp_path / "made.safetensors"
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    options = RunOptions("rna", fasta, tmp_path / "cache", "rnabert", weights, quiet=True)
    assert run(options).embedded == 2
    data = bytearray(weights.read_bytes())
    data[-1 - int(rng.integers(1000))] ^= 1
    weights.write_bytes(data)
    other = run(options)
    assert (other.embedded, other.already) == (2, 0)
    held = list_recipes(tmp_path / "cache", "rna")
    assert len(held) == 2
    assert len({recipe.weights for recipe in held}) == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dtype": "float32"}, "dtype: float32, not float16"),
        ({"compute": "bfloat16"}, "compute: bfloat16, not float32"),
        ({"long": "truncate"}, "long: truncate:440, not whole"),
        ({"long": "window"}, "long: window:440:220, not whole"),
        ({"options": {"attention": "padded-440"}}, "options: .*padded-440"),
    ],
)
def test_a_flag_that_changes_numbers_is_refused_where_the_cache_holds_others(
    tmp_path: Path, rng: np.random.Generator, change: dict[str, object], field: str
) -> None:
    fasta, weights = write_input(tmp_path / "cache", 1), tmp_path / "made.safetensors"
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    options = RunOptions("rna", fasta, tmp_path / "cache", "rnabert", weights, quiet=True)
    assert run(options).embedded == 1
    with pytest.raises(Conflict, match=field):
        run(dataclasses.replace(options, **change))  # type: ignore[arg-type]
    new = run(dataclasses.replace(options, new_recipe=True, **change))  # type: ignore[arg-type]
    assert (new.embedded, new.already) == (1, 0)
    assert len(list_recipes(tmp_path / "cache", "rna")) == 2


def test_another_layer_is_another_recipe_beside_the_first(tmp_path: Path, rng: np.random.Generator) -> None:
    fasta, weights = write_input(tmp_path / "cache", 2), tmp_path / "made.safetensors"
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    options = RunOptions("rna", fasta, tmp_path / "cache", "rnabert", weights, quiet=True)
    assert run(options).embedded == 2
    for layer in (5, 1):
        done = run(dataclasses.replace(options, layers=(layer,)))
        assert (done.embedded, done.already) == (2, 0)
    assert run(dataclasses.replace(options, layers=(6,))).already == 2, "the last, by its number"
    found = [CacheReader(tmp_path / "cache", recipe) for recipe in list_recipes(tmp_path / "cache", "rna")]
    assert {reader.recipe.layer for reader in found} == {None, "5", "1"}
    assert len({reader[next(iter(found[0]))].tobytes() for reader in found}) == 3


@pytest.mark.slow
def test_no_two_ways_of_making_rows_share_any(tmp_path: Path, rng: np.random.Generator) -> None:
    """A language model asked for in every way at once: each run computes, and finds its own rows afterwards."""
    fasta, weights = tmp_path / "cache" / "rna.fasta", tmp_path / "made.safetensors"
    fasta.parent.mkdir()
    fasta.write_text(">x\n" + "ACGUU" * 100 + "\n")
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    plain = RunOptions("rna", fasta, tmp_path / "cache", "rnabert", weights, long="window", new_recipe=True, quiet=True)
    changes: tuple[dict[str, object], ...] = (
        {}, {"layers": (3,)}, {"dtype": "float32"}, {"compute": "bfloat16"}, {"long": "truncate"},
        {"compute": "bfloat16", "long": "truncate"},
    )  # fmt: skip
    asked = [dataclasses.replace(plain, **change) for change in changes]  # type: ignore[arg-type]
    assert [run(options).embedded for options in asked] == [1] * len(asked)
    assert [run(options).already for options in asked] == [1] * len(asked)
    held = [CacheReader(tmp_path / "cache", recipe) for recipe in list_recipes(tmp_path / "cache", "rna")]
    assert len(held) == len(asked)
    assert sorted(reader.residues for reader in held) == [440] * 2 + [500] * (len(asked) - 2)
    assert len({reader[next(iter(reader))].tobytes() for reader in held}) == len(held), "no two hold the same rows"


def test_every_spelling_of_a_sequence_is_one_key_and_the_same_rows(tmp_path: Path, rng: np.random.Generator) -> None:
    """T for U, lower case, a wrapped line: embedded once, by a language model, and read under every id."""
    spelled = ("GGAUCACGNU", "GGATCACGNT", "ggaucacgnu", "ggatcacgnt", "GgAtCaCgNu", "GGAUC\nACGNU")
    fasta, weights = tmp_path / "rna.fasta", tmp_path / "made.safetensors"
    fasta.write_text("".join(f">s{n}\n{text}\n" for n, text in enumerate(spelled)))
    save_file(random_tensors(rnabert_shapes(), rng), weights)
    done = run(RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights, quiet=True))
    assert (done.records, done.distinct, done.embedded) == (len(spelled), 1, 1)
    assert len({entry.key for entry in read_table(tmp_path / "c", "rna").values()}) == 1
    reader = CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna"))
    rows = reader[key_of("rna", "GGAUCACGNU")].tobytes()
    for n, text in enumerate(spelled):  # and each by itself
        fasta.write_text(f">x\n{text}\n")
        run(RunOptions("rna", fasta, tmp_path / str(n), "rnabert", weights, quiet=True))
        alone = CacheReader(tmp_path / str(n), choose_recipe(tmp_path / str(n), "rna"))
        assert {key: alone[key].tobytes() for key in alone} == {key_of("rna", "GGAUCACGNU"): rows}
