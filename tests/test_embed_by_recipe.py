"""Further rows by a settled recipe: the same bits as `embed run` makes, and everything that does not fit is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_weights import random_tensors, rnabert_shapes
from safetensors.torch import save_file

from crossllm.cache import CacheReader, CacheWriter, Conflict, InputError, Recipe, Records, list_recipes, read_table
from crossllm.cache.records.record import record_of
from crossllm.cache.store.recipe import IMPORTED
from crossllm.embed.run.by_recipe import embed_by_recipe
from crossllm.embed.run.run import RunOptions, run

SOURCE = Path("new.fasta")


def records_of(*sequences: str) -> Records:
    return Records("rna", [record_of("rna", f"n{i}", s) for i, s in enumerate(sequences)], Counter(), [])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    fasta = tmp_path / "old.fasta"
    fasta.write_text(">o0\nACGUACGU\n>o1\nGGGGCCCC\n")
    run(RunOptions("rna", fasta, tmp_path / "cache", "profile", quiet=True))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path, rng: np.random.Generator) -> Path:
    save_file(random_tensors(rnabert_shapes(), rng), tmp_path / "rnabert.safetensors")
    return tmp_path / "rnabert.safetensors"


def test_the_rows_are_those_of_embed_run_and_no_id_is_added(cache: Path, tmp_path: Path) -> None:
    (recipe,) = list_recipes(cache, "rna")
    new = records_of("ACGUACGU", "AAAACCCC", "UUUU")
    done = embed_by_recipe(cache, recipe, new, source=SOURCE, quiet=True)
    assert (done.stored, done.residues, done.failures) == (2, 12, {})
    assert set(read_table(cache, "rna")) == {"o0", "o1"}
    fasta = tmp_path / "new.fasta"
    fasta.write_text("".join(f">{r.id}\n{r.sequence}\n" for r in new.records))
    run(RunOptions("rna", fasta, tmp_path / "other", "profile", quiet=True))
    own, theirs = CacheReader(cache, recipe), CacheReader(tmp_path / "other", recipe)
    for record in new.records:
        assert np.array_equal(own[record.key], theirs[record.key])
    assert embed_by_recipe(cache, recipe, new, source=SOURCE, quiet=True).stored == 0


def test_rows_that_were_imported_name_what_is_missing(tmp_path: Path) -> None:
    recipe = Recipe("rna", "theirs", 1, 4, tokenizer=IMPORTED)
    with CacheWriter(tmp_path, recipe) as writer:
        writer.add(record_of("rna", "x", "AC").key, np.zeros((2, 4), np.float16))
    sequences = ["A" * n for n in range(3, 12)]
    with pytest.raises(InputError, match=r"was made by `crossllm cache import`.* 9 sequences .* n0, .*, n4 and 4 more"):
        embed_by_recipe(tmp_path, recipe, records_of(*sequences), source=SOURCE)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"encoder_version": 7}, "encoder_version: "), ({"tokenizer": "bytes"}, "tokenizer: letters, not bytes")],
)
def test_what_this_version_makes_otherwise_is_refused(cache: Path, change: dict[str, object], text: str) -> None:
    (recipe,) = list_recipes(cache, "rna")
    with pytest.raises(Conflict, match=text):
        embed_by_recipe(cache, dataclasses.replace(recipe, **change), records_of("AAAA"), source=SOURCE)  # type: ignore[arg-type]


def test_an_encoder_that_nobody_knows_is_refused(cache: Path) -> None:
    (recipe,) = list_recipes(cache, "rna")
    with pytest.raises(InputError, match=r"no encoder unheard is known here, and unheard-.* lacks n0"):
        embed_by_recipe(cache, dataclasses.replace(recipe, encoder="unheard"), records_of("AAAA"), source=SOURCE)


def test_weights_are_taken_by_their_digest(tmp_path: Path, weights: Path, rng: np.random.Generator) -> None:
    fasta = tmp_path / "old.fasta"
    fasta.write_text(">o0\nACGUACGU\n")
    run(RunOptions("rna", fasta, tmp_path / "cache", "rnabert", weights, quiet=True))
    (recipe,) = list_recipes(tmp_path / "cache", "rna")
    asked = tmp_path / "cache", recipe, records_of("GGGGGG")
    with pytest.raises(
        InputError, match=rf"--weights-a: rnabert needs the weights .*{recipe.weights}.* none are at hand"
    ):
        embed_by_recipe(*asked, source=SOURCE, flag="--weights-a")
    other = tmp_path / "other.safetensors"
    save_file(random_tensors(rnabert_shapes(), rng), other)
    with pytest.raises(InputError, match=rf"has SHA-256 .*, the run was trained with {recipe.weights}"):
        embed_by_recipe(*asked, source=SOURCE, weights=other)
    with pytest.raises(InputError, match="no such file"):
        embed_by_recipe(*asked, source=SOURCE, weights=tmp_path / "gone")
    with pytest.raises(InputError, match=r"new.fasta: 441 nucleotides, rnabert takes 440 \(record n0\)"):
        embed_by_recipe(tmp_path / "cache", recipe, records_of("A" * 441), source=SOURCE, weights=weights)
    moved = weights.rename(tmp_path / "under another name.safetensors")
    assert embed_by_recipe(*asked, source=SOURCE, weights=moved, quiet=True).stored == 1
