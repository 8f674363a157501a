"""`cache import` of rows with BOS and EOS, and of one pooled vector a sequence; a cache that cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import Program
from made_runs import embedded_demo

from crossllm.cache import CacheReader, Recipe, choose_recipe, key_of
from crossllm.cache.files import fsio
from crossllm.embed.run.run import RunOptions, run

SEQUENCES = {"a": "ACGUACGU", "b": "GGGA", "c": "U"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "s.fasta").write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in SEQUENCES.items()))
    return tmp_path


def write(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder


def importing(program: Program, made: Path, folder: Path, *flags: str) -> tuple[int, list[str]]:
    done = program("crossllm", "cache", "import", made / "c", "--modality", "rna", "--input", folder,
                   "--fasta", made / "s.fasta", "--quiet", *flags)  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()


def reader(made: Path) -> CacheReader:
    return CacheReader(made / "c", choose_recipe(made / "c", "rna"))


def test_rows_of_special_tokens_are_cut(program: Program, made: Path, rng: np.random.Generator) -> None:
    whole = {id_: rng.normal(size=(len(s) + 2, 5)).astype(np.float16) for id_, s in SEQUENCES.items()}
    folder = write(made / "kept", whole | {"b": whole["b"][None]})  # (1, L, D) as well
    code, lines = importing(program, made, folder)
    assert code == 2
    assert all("--strip 1,1" in line for line in lines)
    assert importing(program, made, folder, "--strip", "1,1") == (0, [])
    found = reader(made)
    for id_, sequence in SEQUENCES.items():
        assert np.array_equal(found[key_of("rna", sequence)], whole[id_][1:-1])
    assert found.recipe.options["strip"] == "1,1"
    code, (line,) = importing(program, made, folder, "--strip", "0,2")
    assert (code, "strip" in line) == (5, True), "other rows are another recipe"


@pytest.mark.parametrize("strip", ["1", "1,", "-1,1", "a,b", "1,1,1", ""])
def test_what_is_no_strip_is_one_line(strip: str, program: Program, made: Path) -> None:
    code, (line,) = importing(program, made, write(made / "k", {"a": np.ones((8, 2))}), "--strip", strip)
    assert code == 2
    assert "is not N,M" in line


def test_an_array_that_strip_leaves_nothing_of_is_named(program: Program, made: Path) -> None:
    folder = write(made / "k", {"a": np.ones((10, 2)), "b": np.ones((6, 2)), "c": np.ones((2, 2))})
    code, (line,) = importing(program, made, folder, "--strip", "1,1")
    assert code == 2
    assert "2 rows, of which --strip 1,1 leaves none (record c)" in line


def test_pooled_vectors_are_stored_as_one_row_and_marked(
    program: Program, made: Path, rng: np.random.Generator
) -> None:
    vectors = {id_: rng.normal(size=5).astype(np.float16) for id_ in SEQUENCES}
    folder = write(made / "vectors", vectors | {"b": vectors["b"][None]})
    code, lines = importing(program, made, folder)
    assert code == 2
    assert all("--pooled" in line for line in lines)
    assert importing(program, made, folder, "--pooled") == (0, [])
    found = reader(made)
    assert found.recipe.pooled
    for id_, sequence in SEQUENCES.items():
        assert np.array_equal(found[key_of("rna", sequence)], vectors[id_][None])
    assert program("crossllm", "cache", "verify", made / "c", "--data").returncode == 0
    code, (line,) = importing(program, made, write(made / "rows", {"a": np.ones((8, 5))}), "--pooled", "--source", "r")
    assert (code, "shape (8, 5) where --pooled expects one vector" in line) == (2, True)
    assert importing(program, made, folder, "--pooled", "--strip", "1,1")[0] == 2


def test_train_runs_on_pooled_vectors(program: Program, tmp_path: Path, rng: np.random.Generator) -> None:
    cache = embedded_demo(tmp_path / "demo", entities=16, pairs=60)
    for modality in ("rna", "protein"):
        ids = [line[1:].split()[0] for line in (cache / f"{modality}.fasta").read_text().split("\n") if line[:1] == ">"]
        folder = write(tmp_path / modality, {id_: rng.normal(size=6).astype(np.float32) for id_ in ids})
        done = program("crossllm", "cache", "import", cache, "--modality", modality, "--input", folder, "--pooled",
                       "--fasta", cache / f"{modality}.fasta", "--source", "mean")  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = program("train", "--cache", cache, "--recipe", "a=mean", "--recipe", "b=mean", "--tokens", "pooled",
                   "--folds", "2", "--epochs", "1", "--d-model", "8", "--d-state", "4", "--quiet",
                   "--baselines", "none")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "one vector a sequence, pooled where it was made" in done.stderr
    assert "are cut" not in done.stderr


def test_a_recipe_is_pooled_only_where_it_says_so() -> None:
    assert not Recipe("rna", "x", 1, 4, long="truncate:1").pooled
    assert Recipe("rna", "x", 1, 4, long="truncate:1", options={"rows": "pooled"}).pooled


# -- a cache that cannot be written


@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_with_nothing_to_embed_is_no_error(
    refusal: int, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions("rna", made / "s.fasta", made / "c", "profile", quiet=True)
    run(options)
    (failed,) = (p / "failed.tsv" for p in (made / "c" / "embeddings" / "rna").iterdir())

    def readonly(path: Path, *_: object) -> None:
        raise OSError(refusal, "Read-only file system", str(path))

    for name in ("replace", "remove_file", "make_dirs", "publish", "sync_dir"):
        monkeypatch.setattr(fsio, name, readonly)
    assert run(options).embedded == 0
    failed.write_text("an earlier run's\n")
    (made / "n.fasta").write_text(">new\nACGUACGU\n")
    assert run(RunOptions("rna", made / "n.fasta", made / "c", "profile", quiet=True)).already == 1
    said = capsys.readouterr().err
    assert "the table of ids stays as it is" in said
    assert "the list of an earlier run's failures stays" in said
    (made / "n.fasta").write_text(">new\nACGUACGUU\n")
    with pytest.raises(OSError, match="Read-only"):
        run(RunOptions("rna", made / "n.fasta", made / "c", "profile", quiet=True))


# -- the folder as an argument


def commands(group: click.Group) -> dict[str, click.Command]:
    return dict(group.commands)


def test_every_command_of_cache_takes_the_folder_either_way(program: Program, made: Path) -> None:
    from crossllm.embed.cli_cache import cache

    run(RunOptions("rna", made / "s.fasta", made / "c", "profile", quiet=True))
    for name, command in commands(cache).items():
        arguments = [p.name for p in command.params if isinstance(p, click.Argument)]
        assert arguments == (["sources"] if name == "merge" else ["folder"]), name
    for name in ("info", "verify", "repair", "gc", "compact"):
        one, two = (program("crossllm", "cache", name, *way) for way in ([made / "c"], ["--cache", made / "c"]))
        assert (one.returncode, one.stdout, one.stderr) == (0, two.stdout, two.stderr)
    for way, said in (([], "no cache is named"), (["c", "--cache", "c"], "the cache is named twice, c and --cache c")):
        done = program("crossllm", "cache", "info", *way)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert said in line
