"""`--long truncate`: the first N rows and no others, asked for, counted and said; nothing else may be short."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from made_runs import QUICK
from made_weights import design_tensors, load, random_tensors, rnabert_shapes, rows_of
from safetensors.torch import save_file
from tolerances import ROWS

from crossllm.cache import (
    CacheCorrupt,
    CacheReader,
    CacheWriter,
    Conflict,
    InputError,
    Record,
    choose_recipe,
    record_of,
)
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.maintenance.repair import repair
from crossllm.cache.records.id_table import read_table
from crossllm.cache.store.commit import commit_paths
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.recipe_command import command_for
from crossllm.embed.encoder import Outputs
from crossllm.embed.encoders import esm2, rinalmo, rnabert, rnafm
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.encoders.windows import Cut, left_out
from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline.data.demo import write_demo
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs

MODELS = {"rnabert": "rna", "rnafm": "rna", "rinalmo-micro": "rna", "esm2-8m": "protein"}
LETTERS = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
WIDTH = 24
Make = Callable[..., Record]


@pytest.fixture
def make(rng: np.random.Generator) -> Make:
    return lambda modality, length: record_of(modality, "x", "".join(rng.choice(list(LETTERS[modality]), length)))


def small_model(name: str, folder: Path, rng: np.random.Generator, patch: pytest.MonkeyPatch) -> Path:
    """Random weights of a model made small: loader, letters, limit and policies stay as they are."""
    if name in ("rnabert", "rnafm"):
        module = rnabert if name == "rnabert" else rnafm
        published = module.published(WIDTH, 1, 2, 40)
        patch.setattr(module, "published", lambda: published)
    else:
        module = esm2 if name == "esm2-8m" else rinalmo
        patch.setitem(module.SIZES, name, (WIDTH, 1, 2))
        published = module.published(WIDTH, 1, 2)
    save_file(design_tensors(published, rng), folder / "made.safetensors")
    return folder / "made.safetensors"


@pytest.mark.parametrize("name", MODELS)
def test_every_policy_gives_the_rows_it_says(
    name: str, make: Make, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, weights = ENCODERS[MODELS[name], name], small_model(name, tmp_path, rng, monkeypatch)
    limit = info.limit
    assert limit is not None
    assert {policy.split(":")[0] for policy in info.policies()} == {"whole", "window", "truncate"}
    lengths = [1, 7, limit - 1, limit, limit + 1, 2 * limit + 3]
    for asked in ("window", "truncate", *(["whole"] if info.rotary else [])):
        long = info.policy(asked)
        assert long in info.policies()
        recipe = Recipe(info.modality, name, 1, WIDTH, long=long)
        records = [make(info.modality, length) for length in lengths]
        found = rows_of(load(info.modality, name, weights, dim=WIDTH, long=long, batch_tokens=1500), records)
        expected = [min(length, limit) if asked == "truncate" else length for length in lengths]
        assert [len(rows) for rows in found] == [recipe.rows_of(length) for length in lengths] == expected
    if not info.rotary:
        with pytest.raises(InputError, match=f"--long whole: {name} has no positions beyond {limit}"):
            info.policy("whole")


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_truncated_rows_are_those_of_the_cut_sequence(
    name: str, compute: str, make: Make, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, weights = ENCODERS[MODELS[name], name], small_model(name, tmp_path, rng, monkeypatch)
    limit = info.limit
    assert limit is not None
    records = [make(info.modality, length) for length in (5, limit + 1, 2 * limit + 3)]
    truncated = load(info.modality, name, weights, dim=WIDTH, long=f"truncate:{limit}", compute=compute)
    whole = load(info.modality, name, weights, dim=WIDTH, compute=compute)
    for record, rows in zip(records, rows_of(truncated, records), strict=True):
        (alone,) = rows_of(whole, [record_of(info.modality, "cut", record.sequence[:limit])])
        assert rows.shape == alone.shape
        assert np.abs(rows - alone).max() <= ROWS[compute] * np.abs(alone).max()


def test_what_is_left_out_is_counted() -> None:
    recipe = Recipe("rna", "rnafm", 1, 4, long="truncate:1022")
    assert left_out(recipe, [1, 1022, 1023, 3000]) == Cut(2, 1 + 1978)
    for long in ("whole", "window:1022:511"):
        assert left_out(dataclasses.replace(recipe, long=long), [1, 3000]) == Cut(0, 0)


@pytest.fixture
def weights(tmp_path: Path, rng: np.random.Generator) -> Path:
    save_file(random_tensors(rnabert_shapes(), rng), tmp_path / "rnabert.safetensors")
    return tmp_path / "rnabert.safetensors"


def write(path: Path, **sequences: str) -> Path:
    path.write_text("".join(f">{i}\n{s}\n" for i, s in sequences.items()))
    return path


HEAD = "ACGUU" * 88
"""440 nucleotides, all that RNABERT takes."""


def test_a_run_says_what_it_cuts_and_keeps_the_true_length(program: Program, tmp_path: Path, weights: Path) -> None:
    write(tmp_path / "a.fasta", short="ACGU", whole=HEAD, x=HEAD + "A", y=HEAD + "GG", same=HEAD + "A")
    command = ("embed", "run", "--modality", "rna", "-i", "a.fasta", "--encoder", "rnabert", "--weights", weights)
    assert program(*command).returncode == 2, "off unless asked for"
    said = "note: a.fasta: 2 sequences cut to the first 440 nucleotides (--long truncate), 3 nucleotides have no row"
    done = program(*command, "--long", "truncate", "--json")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr.splitlines()
    summary = json.loads(done.stdout)
    assert (summary["distinct"], summary["residues"], summary["cut"], summary["cut_residues"]) == (4, 1327, 2, 3)
    cache = tmp_path / "cache" / "a"
    reader, table = CacheReader(cache, choose_recipe(cache, "rna")), read_table(cache, "rna")
    assert reader.recipe.long == "truncate:440"
    assert {id_: entry.length for id_, entry in table.items()} == {
        "short": 4, "whole": 440, "x": 441, "y": 442, "same": 441
    }  # fmt: skip
    assert [reader.length(table[id_].key) for id_ in ("short", "whole", "x", "y")] == [4, 440, 440, 440]
    # Two RNAs with the same start are two keys, with the same rows: nobody takes them for one.
    assert table["x"].key != table["y"].key
    assert (reader[table["x"].key] == reader[table["y"].key]).all()
    assert not verify(cache, data=True).damage
    assert "truncate:440" in program("crossllm", "cache", "info", "--cache", "cache/a", "--json").stdout
    # The cache's policy is followed, and said again; another is another recipe.
    again = program(*command)
    assert again.returncode == 0
    assert f"nothing to embed, 4 are in cache/a ({reader.recipe.folder_name}, truncate:440)" in again.stdout
    assert said in again.stderr.splitlines()
    for flag in ("window", "error"):
        refused = program(*command, "--long", flag)
        assert refused.returncode == 5
        assert "not truncate:440" in refused.stderr
    assert "--long truncate" in command_for(cache, reader.recipe)


def test_a_window_is_never_taken_for_a_cut_or_a_whole(tmp_path: Path, weights: Path) -> None:
    options = RunOptions("rna", write(tmp_path / "a.fasta", x=HEAD * 2), tmp_path / "c", "rnabert", weights, quiet=True)
    done = {}
    for long in ("window", "truncate"):
        asked = dataclasses.replace(options, long=long, new_recipe=True)
        done[long] = run(asked)
        assert (done[long].embedded, done[long].already) == (1, 0)
        assert run(asked).already == 1
    assert done["window"].recipes[0].recipe != done["truncate"].recipes[0].recipe
    with pytest.raises(Conflict, match="long: whole, not"):
        run(dataclasses.replace(options, long="error"))
    lengths = {
        CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna", d.recipes[0].recipe)).residues
        for d in done.values()
    }
    assert lengths == {440, 880}


def test_profile_takes_all_and_cuts_nothing(tmp_path: Path) -> None:
    options = RunOptions("rna", write(tmp_path / "a.fasta", x="ACGU"), tmp_path / "c", "profile", long="truncate")
    with pytest.raises(InputError, match="--long truncate: profile takes sequences of any length whole"):
        run(options)


@pytest.mark.parametrize(
    ("long", "rows"), [("truncate", 441), ("truncate", 439), ("window", 440), (None, 3), (None, 0)]
)
def test_a_run_refuses_any_other_count_of_rows(
    long: str | None, rows: int, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = "ACGU" if long is None else HEAD + "A"
    fasta = write(tmp_path / "a.fasta", x=sequence)
    options = RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights, long=long, quiet=True)  # type: ignore[arg-type]

    def wrong(self: object, records: list[Record]) -> Iterator[tuple[bytes, Outputs]]:
        yield from ((record.key, (np.zeros((rows, 120), np.float32),)) for record in records)

    monkeypatch.setattr("crossllm.embed.encoders.language_model.LanguageModel.encode", wrong)
    with pytest.raises(RuntimeError, match=f"gave {rows} rows for"):
        run(options)
    assert not commit_paths(choose_recipe(tmp_path / "c", "rna").folder(tmp_path / "c"))


@pytest.fixture
def cut_set(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> TrainOptions:
    """A small dataset, some of whose RNAs are longer than the 440 rows that are stored of them."""
    monkeypatch.setattr("crossllm.pipeline.data.demo.RNA_LENGTHS", (400, 480))
    cache = tmp_path / "demo"
    write_demo(cache, entities=15, pairs=50)
    done = run(RunOptions("rna", cache / "rna.fasta", cache, "rnabert", weights, long="truncate", quiet=True))
    assert 0 < done.cut < done.distinct
    run(RunOptions("protein", cache / "protein.fasta", cache, "profile", quiet=True))
    capsys.readouterr()
    return TrainOptions(cache, QUICK, quiet=True)


@pytest.mark.slow
def test_training_takes_a_truncated_cache_and_says_so(
    cut_set: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = choose_recipe(cut_set.cache_dir, "rna")
    lengths = {entry.key: entry.length for entry in read_table(cut_set.cache_dir, "rna").values()}
    done = train(cut_set)
    assert 0 <= done.metrics["model"]["auroc"]["mean"] <= 1
    keys = set(open_inputs(cut_set).dataset.a_keys)
    cut = sum(lengths[key] > 440 for key in keys)
    said = f"note: {recipe.folder_name}: {cut} of {len(keys)} sequences are cut, truncate:440"
    assert capsys.readouterr().err.splitlines().count(said) == 2


@pytest.mark.slow
@pytest.mark.parametrize("off", [-1, 1])
def test_rows_that_are_neither_whole_nor_cut_are_damage(off: int, cut_set: TrainOptions) -> None:
    """A record that a careless tool wrote: its bytes are what their checksum says, its rows are not its sequence's."""
    cache, recipe = cut_set.cache_dir, choose_recipe(cut_set.cache_dir, "rna")
    key, length = next((e.key, e.length) for e in read_table(cache, "rna").values() if e.length > 440)
    assert key in open_inputs(cut_set).dataset.a_keys
    rewrite(cache, recipe, key, 440 + off)
    with pytest.raises(CacheCorrupt, match=f"{key.hex()} has {440 + off} rows, its sequence has {length} nucleotides"):
        open_inputs(cut_set)
    rewrite(cache, recipe, key, length)
    with pytest.raises(CacheCorrupt, match=f"{key.hex()} has {length} rows"):
        open_inputs(cut_set)
    rewrite(cache, recipe, key, 440)
    open_inputs(cut_set)


def rewrite(cache: Path, recipe: Recipe, changed: bytes, rows: int) -> None:
    """Write all records of a recipe anew, one with so many rows."""
    reader = CacheReader(cache, recipe)
    held = {key: np.array(reader[key]) for key in reader}
    held[changed] = np.ones((rows, recipe.dim))
    for path in commit_paths(recipe.folder(cache)):
        path.unlink()
    with CacheWriter(cache, recipe) as writer:
        for key, values in held.items():
            writer.add(key, values)


def test_an_export_says_what_is_cut_and_is_not_taken_for_whole(program: Program, tmp_path: Path, weights: Path) -> None:
    write(tmp_path / "a.fasta", x="ACGU", y=HEAD + "GG")
    options = RunOptions("rna", tmp_path / "a.fasta", tmp_path / "c", "rnabert", weights, long="truncate", quiet=True)
    run(options)
    export = ("crossllm", "cache", "export", "--modality", "rna", "--cache", "c", "--format", "npy", "--output", "out")
    done = program(*export)
    assert done.returncode == 0, done.stderr
    said = "note: c: 1 sequence cut to the first 440 nucleotides (--long truncate), 2 nucleotides have no row"
    assert said in done.stderr.splitlines()
    back = ("crossllm", "cache", "import", "--modality", "rna", "--input", "out", "--fasta", "a.fasta", "--cache", "d")
    refused = program(*back)
    assert refused.returncode == 2
    assert "440 rows where its sequence has 442 (record y); was the model's input cut?" in refused.stderr


@pytest.mark.slow
def test_repair_proves_cut_records_by_their_cut_length(cut_set: TrainOptions) -> None:
    """Where the commit record is lost, the records table and the recipe together say how many rows a key has."""
    cache, recipe = cut_set.cache_dir, choose_recipe(cut_set.cache_dir, "rna")
    reader = CacheReader(cache, recipe)
    before = {key: reader[key].tobytes() for key in reader}
    for path in commit_paths(recipe.folder(cache)):
        path.write_bytes(path.read_bytes()[:-20])
    assert verify(cache, data=True).damage
    repair(cache)
    assert not verify(cache, data=True).damage
    after = CacheReader(cache, recipe)
    assert {key: after[key].tobytes() for key in after} == before


def test_two_recipes_that_differ_in_policy_are_named_and_one_is_chosen(tmp_path: Path, weights: Path) -> None:
    fasta = write(tmp_path / "a.fasta", x=HEAD * 2)
    options = RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights, dtype="float32", quiet=True)
    run(dataclasses.replace(options, long="truncate"))
    run(dataclasses.replace(options, long="window", new_recipe=True))
    with pytest.raises(
        Conflict, match=r"truncate:440.* and .*window:440:220.*; say which by --long truncate or window"
    ):
        run(options)
    followed = dataclasses.replace(options, dtype=None)  # and its storage type with it
    for long in ("truncate", "window"):
        assert run(dataclasses.replace(followed, long=long)).already == 1
    with pytest.raises(InputError) as refused:
        run(dataclasses.replace(options, long="error", new_recipe=True))
    assert "--new-recipe too" not in str(refused.value)
