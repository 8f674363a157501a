"""Several recipes read as one: columns side by side, and what does not fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from made_runs import embedded_demo

from crossllm.cache import CacheReader, InputError
from crossllm.cache.store.joined_reader import JoinedReader, open_rows, parts_of
from crossllm.cache.store.recipe import Recipe, choose_recipe, list_recipes
from crossllm.embed.run.run import RunOptions, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo; its RNAs by `profile` in float16 and in float32."""
    folder = embedded_demo(tmp_path_factory.mktemp("joined") / "demo", entities=20, pairs=80)
    rna = folder / "rna.fasta"
    run(RunOptions("rna", rna, folder, "profile", dtype="float32", new_recipe=True, quiet=True))
    return folder


def named(cache: Path, **wanted: str) -> str:
    found = [r for r in list_recipes(cache, "rna") if all(getattr(r, k) == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0].folder_name


def test_columns_side_by_side(cache: Path) -> None:
    half, single = named(cache, dtype="float16", long="whole"), named(cache, dtype="float32")
    joined = open_rows(cache, "rna", f"{half}+{single}")
    assert isinstance(joined, JoinedReader)
    first, second = (CacheReader(cache, choose_recipe(cache, "rna", name)) for name in (half, single))
    assert parts_of(joined)[1].recipe == second.recipe
    assert joined.recipe.dim == 2 * first.recipe.dim
    assert joined.recipe.digest == f"{first.recipe.digest}+{second.recipe.digest}"
    keys = list(first)
    for key in keys:
        assert key in joined
        assert joined.length(key) == len(first[key])
        np.testing.assert_array_equal(joined[key], np.concatenate([first[key], second[key]], axis=1))
    rows, offsets = joined.gather(keys[:3])
    np.testing.assert_array_equal(rows, np.concatenate([joined[key] for key in keys[:3]]))
    assert offsets.tolist() == np.cumsum([0, *(joined.length(key) for key in keys[:3])]).tolist()
    joined.prefetch(keys)
    strange = bytes(32)
    assert strange not in joined
    assert joined.missing([keys[0], strange]) == [strange]
    assert open_rows(cache, "rna", joined.recipe.digest).recipe.digest == joined.recipe.digest


class Rows:
    """A reader of one sequence."""

    folder = Path("cache/rna/x")

    def __init__(self, rows: np.ndarray, **recipe: object) -> None:
        self.rows, self.recipe = rows, Recipe("rna", "x", 1, rows.shape[1], **recipe)  # type: ignore[arg-type]

    def __getitem__(self, _key: bytes) -> np.ndarray:
        return self.rows

    def length(self, _key: bytes) -> int:
        return len(self.rows)


def test_a_vector_of_the_whole_sequence_stands_in_every_row() -> None:
    rows, vector = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([[7.0, 8.0]], np.float32)
    pooled = Rows(vector, long="truncate:1", options={"rows": "pooled"})
    joined = JoinedReader([Rows(rows), pooled])  # type: ignore[list-item]
    np.testing.assert_array_equal(joined[b"k"], np.concatenate([rows, np.tile(vector, (3, 1))], axis=1))
    assert not joined.recipe.pooled
    assert JoinedReader([pooled, pooled]).recipe.pooled  # type: ignore[list-item]
    assert JoinedReader([pooled, pooled])[b"k"].shape == (1, 4)  # type: ignore[list-item]


def test_what_does_not_fit_together_is_one_line(cache: Path) -> None:
    joined = JoinedReader([Rows(np.zeros((3, 2))), Rows(np.zeros((2, 2)), long="truncate:2")])  # type: ignore[list-item]
    with pytest.raises(InputError, match="not as many rows in each joined recipe"):
        joined.length(b"k")
    half = named(cache, dtype="float16", long="whole")
    with pytest.raises(InputError, match="joins a recipe to itself"):
        open_rows(cache, "rna", f"{half}+{half}")
    with pytest.raises(InputError, match="'nosuch' fits 0 of them"):
        open_rows(cache, "rna", f"{half}+nosuch")


def test_train_joins_recipes_and_goes_on_with_them(program: Program, cache: Path) -> None:
    half, single = named(cache, dtype="float16", long="whole"), named(cache, dtype="float32")
    common = ("--cache", cache, "--folds", 2, "--epochs", 1, "--baselines", "none", "--out", cache / "runs" / "joined")
    done = program("train", *common, "--recipe", f"a={half}", "--recipe", f"a={single}")
    assert done.returncode == 0, done.stderr
    assert f"{half}+{single}" in (cache / "runs" / "joined" / "metrics.json").read_text()
    again = program("train", "--cache", cache, "--out", cache / "runs" / "joined", "--resume", "--baselines", "none")
    assert again.returncode == 0, again.stderr
    assert "finished before" in again.stderr
