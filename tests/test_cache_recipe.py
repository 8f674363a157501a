from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from crossllm.cache import CacheWriter, Conflict, InputError, Recipe, choose_recipe, key_of, list_recipes
from crossllm.cache.maintenance.inspection import info
from crossllm.cache.store.recipe import parse_recipe, write_recipe
from crossllm.embed.encoder import rdkit_version
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run


def test_recipes_do_not_mix(tmp_path: Path, recipe: Recipe) -> None:
    for other in (recipe, dataclasses.replace(recipe, dtype="float32"), dataclasses.replace(recipe, weights="ab" * 32)):
        with CacheWriter(tmp_path, other) as writer:
            writer.add(key_of("rna", "A"), np.ones((1, 24)))
    digests = {
        r.digest
        for r in (recipe, dataclasses.replace(recipe, encoder_version=2), dataclasses.replace(recipe, layer="3"))
    }
    assert len(digests) == 3
    assert len(info(tmp_path)) == 3
    with pytest.raises(InputError, match="fits 3 of them"):
        choose_recipe(tmp_path, "rna", "profile")
    assert choose_recipe(tmp_path, "rna", recipe.digest[:12]) == recipe


def test_a_newer_format_is_refused_with_the_version_wanted(tmp_path: Path, recipe: Recipe) -> None:
    newer = json.loads(recipe.to_json()) | {"format": 2, "something": "new"}
    with pytest.raises(InputError, match="format 2, this version reads up to 1"):
        parse_recipe(json.dumps(newer).encode(), tmp_path)


UNREADABLE: dict[str, tuple[dict[str, object], str]] = {
    "control character": ({"layer": "a\x1b[2J"}, r"'a\\x1b\[2J' in the recipe is not printable"),
    "newline in an option": ({"options": {"source": "a\nb"}}, r"'a\\nb' in the recipe is not printable"),
    "lone surrogate": ({"options": {"source": "a\udcff"}}, "is not printable"),
    "too large": ({"options": {"x": "y" * (1 << 20)}}, "a recipe of 10[0-9]{5} bytes, at most 1048576"),
    "no width": ({"dim": 0}, "dim, dtype or encoder out of range; nothing was written"),
    "name of a folder elsewhere": ({"encoder": "../x"}, "dim, dtype or encoder out of range"),
    "truncate without a number": ({"long": "truncate"}, "long 'truncate' is not truncate:N; nothing was written"),
    "truncate to nothing": ({"long": "truncate:0"}, "long 'truncate:0' is not truncate:N"),
    "truncate to no number": ({"long": "truncate:1e3"}, "long 'truncate:1e3' is not truncate:N"),
    "truncate as if it were a window": ({"long": "truncate:440:220"}, "is not truncate:N"),
    "option that is no text": ({"options": {"x": 1}}, "a text of the recipe is none"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_recipe_that_could_not_be_read_is_not_written(name: str, tmp_path: Path, recipe: Recipe) -> None:
    changed, say = UNREADABLE[name]
    with pytest.raises(InputError, match=say) as refused:
        write_recipe(tmp_path / "c", dataclasses.replace(recipe, **changed))  # type: ignore[arg-type]
    assert len(refused.value.lines) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("long", ["whole", "window:1022:511"])
def test_a_record_has_a_row_a_residue_unless_the_recipe_cuts(long: str, recipe: Recipe) -> None:
    assert [dataclasses.replace(recipe, long=long).rows_of(n) for n in (1, 1022, 1023, 9999)] == [1, 1022, 1023, 9999]
    cut = dataclasses.replace(recipe, long="truncate:1022")
    assert [cut.rows_of(n) for n in (1, 1022, 1023, 9999)] == [1, 1022, 1022, 1022]


def test_what_is_written_is_read_again(tmp_path: Path, recipe: Recipe) -> None:
    full = dataclasses.replace(recipe, layer="33", options={"source": "é 漢.h5", "sha256": "0" * 64})
    write_recipe(tmp_path, full)
    assert list_recipes(tmp_path, "rna") == [full]


def test_another_rdkit_is_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.smi").write_text("a\tCCO\n")
    options = RunOptions("molecule", tmp_path / "m.smi", tmp_path / "c", "profile", quiet=True)
    run(options)
    ours = choose_recipe(tmp_path / "c", "molecule").tokenizer
    assert ours == rdkit_version() == f"rdkit-{metadata.version('rdkit')}"
    monkeypatch.setattr(metadata, "version", lambda name: "2031.09.1")
    assert ENCODERS["molecule", "gnn-gcn"].recipe(None).tokenizer == "rdkit-2031.9.1"
    with pytest.raises(
        Conflict, match=f"tokenizer: rdkit-2031.9.1, not {ours}; start another recipe with --new-recipe"
    ):
        run(options)
    assert run(dataclasses.replace(options, new_recipe=True)).embedded == 1


def test_rdkit_without_metadata_says_its_version_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rdkit_version()

    def lost(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lost)
    assert rdkit_version() == expected
