"""One store of embeddings, many datasets: `embeddings` in dataset.toml, `--cache STORE`, what `merge` takes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from conftest import Program
from made_runs import embedded_demo

from crossllm.cache import CacheReader, Conflict, InputError, choose_recipe, list_recipes, read_table
from crossllm.cache.files import fsio
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.maintenance.merge import merge
from crossllm.cache.store.store_folder import store_folder
from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline.data.demo import write_demo

QUICK = ["--tokens", "pooled", "--folds", "2", "--epochs", "1", "--d-model", "8", "--d-state", "4", "--quiet",
         "--baselines", "none"]  # fmt: skip


def pointed(dataset: Path, named: object) -> Path:
    """The dataset, its embeddings taken from elsewhere."""
    toml = dataset / "dataset.toml"
    toml.write_text(f'embeddings = "{named}"\n' + toml.read_text())
    return dataset


def two_datasets(folder: Path) -> tuple[Path, Path]:
    """Their ids clash: the same names for other sequences."""
    one, two = folder / "one", folder / "two"
    for n, dataset in enumerate((one, two)):
        write_demo(dataset, seed=n, entities=16, pairs=60)
    tables = [read_table(dataset, "rna") for dataset in (one, two)]
    assert any(id_ in tables[1] and tables[1][id_].key != entry.key for id_, entry in tables[0].items())
    return one, two


def embed(dataset: Path, **more: Path) -> None:
    for modality in ("rna", "protein"):
        run(RunOptions(modality, dataset / f"{modality}.fasta", more.get("cache", dataset), "profile", quiet=True))


def keys(cache: Path, modality: str = "rna") -> set[bytes]:
    return {entry.key for entry in read_table(cache, modality).values()}


def test_datasets_whose_ids_clash_share_one_store(tmp_path: Path, program: Program) -> None:
    for dataset in two_datasets(tmp_path):
        pointed(dataset, "../all_rows")
        for modality in ("rna", "protein"):
            done = program("embed", "run", "--modality", modality, "--input", dataset / f"{modality}.fasta",
                           "--encoder", "profile", "--quiet")  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "the rows are kept in " in done.stderr
        assert not (dataset / "embeddings").exists()
    store = tmp_path / "all_rows"
    held = CacheReader(store, choose_recipe(store, "rna"))
    for dataset in (tmp_path / "one", tmp_path / "two"):
        assert not held.missing(dict.fromkeys(keys(dataset)))
        assert program("train", "--cache", dataset, *QUICK).returncode == 0
        info, verified = (program("crossllm", "cache", name, dataset) for name in ("info", "verify"))
        assert info.stdout == program("crossllm", "cache", "info", store).stdout
        assert "profile" in info.stdout
        assert verified.returncode == 0
        assert "clean: 4 segments" in verified.stdout


def test_embed_run_into_a_store_keeps_clashing_ids_in_the_datasets(tmp_path: Path, program: Program) -> None:
    one, two = two_datasets(tmp_path)
    store = tmp_path / "all_rows"
    embed(one, cache=store)
    for modality in ("rna", "protein"):
        done = program("embed", "run", "--modality", modality, "--input", two / f"{modality}.fasta", "--cache", store,
                       "--encoder", "profile", "--quiet")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "ids stand for other sequences there; rows are kept by sequence" in done.stderr
    assert program("train", "--cache", pointed(two, "../all_rows"), *QUICK).returncode == 0
    loose = tmp_path / "loose.fasta"
    loose.write_text((two / "rna.fasta").read_text())
    with pytest.raises(Conflict):  # of no dataset: its ids would be lost
        run(RunOptions("rna", loose, store, "profile", quiet=True))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ('""', "is no path"), ("3", "is no path"), ("[]", "is no path"), ('"s3://b/x"', "is an address"),
        ('"../code"', "holds Python code"), ('"../two"', "takes its own from elsewhere"),
    ],
)  # fmt: skip
def test_what_is_no_store_is_one_line(named: str, said: str, tmp_path: Path, program: Program) -> None:
    one, two = two_datasets(tmp_path)
    pointed(two, "../all_rows")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "__init__.py").touch()
    toml = one / "dataset.toml"
    toml.write_text(f"embeddings = {named}\n" + toml.read_text())
    with pytest.raises(InputError, match=said):
        store_folder(one)
    embed_run = ["embed", "run", "--modality", "rna", "--input", one / "rna.fasta", "--encoder", "profile"]
    cache = [["crossllm", "cache", name, one] for name in ("info", "verify")]
    for arguments in (["train", "--cache", one], embed_run, *cache):
        done = program(arguments[0], *arguments[1:])
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert said in line
    assert not (one / "embeddings").exists()


def test_a_store_that_is_the_dataset_or_a_whole_path_or_not_there_yet(tmp_path: Path) -> None:
    one, two = two_datasets(tmp_path)
    assert store_folder(one) == one
    assert store_folder(pointed(one, ".")) == one
    assert store_folder(pointed(two, tmp_path / "away")) == tmp_path / "away"
    assert list_recipes(two, "rna") == []
    assert store_folder(tmp_path / "nothing") == tmp_path / "nothing"


def test_a_dataset_whose_store_is_not_there_says_so(tmp_path: Path) -> None:
    """As when `data negatives` made it and one of the two was moved."""
    write_demo(tmp_path / "own", entities=16, pairs=60)
    pointed(tmp_path / "own", "../moved")
    with pytest.raises(InputError, match=r"takes its embeddings from .*moved, which is not there; was one of the two"):
        choose_recipe(tmp_path / "own", "rna")
    (tmp_path / "moved").mkdir()
    with pytest.raises(InputError, match="holds no rna embeddings"):
        choose_recipe(tmp_path / "own", "rna")


def test_merge_of_rows_alone_keeps_tables_of_ids_apart(tmp_path: Path, program: Program) -> None:
    one, two = two_datasets(tmp_path)
    embed(one)
    embed(two)
    store = tmp_path / "all_rows"
    with pytest.raises(Conflict, match="--rows-only"):
        merge(store, [one, two])
    done = program("crossllm", "cache", "merge", "--cache", store, one, two, "--rows-only", "--link")
    assert done.returncode == 0, done.stderr
    assert "4 segments linked, not copied" in done.stdout
    assert not (store / "records").exists()
    held = CacheReader(store, choose_recipe(store, "rna"))
    assert len(held) == len(keys(one) | keys(two))
    assert verify(store, data=True).damage == []
    files = [path for path in (store / "embeddings").rglob("*") if path.parent.name == "0"]
    assert files
    assert all(path.stat().st_nlink == 2 for path in files)
    assert merge(store, [one, two], rows_only=True).records == 0, "all is there"


def test_only_what_a_dataset_needs_is_taken(tmp_path: Path, program: Program) -> None:
    one, two = two_datasets(tmp_path)
    store = tmp_path / "all_rows"
    embed(one, cache=store)
    embed(two, cache=store)
    done = program("crossllm", "cache", "merge", "--cache", one, store, "--only-needed")
    assert done.returncode == 0, done.stderr
    held = CacheReader(one, choose_recipe(one, "rna"))
    assert len(held) == len(keys(one))
    assert not held.missing(dict.fromkeys(keys(one)))
    assert keys(one) == {entry.key for entry in read_table(one, "rna").values()}
    with pytest.raises(InputError, match="lists no sequences"):
        merge(tmp_path / "empty", [store], only_needed=True)
    nothing = tmp_path / "three"
    write_demo(nothing, seed=7, entities=16, pairs=60)
    assert merge(nothing, [store], only_needed=True).records == 0
    assert list_recipes(nothing, "rna") == [], "a recipe that holds nothing is not made"


def test_where_there_are_no_links_rows_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = embedded_demo(tmp_path / "one", entities=16, pairs=60)

    def no_links(*_: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(fsio, "link_file", no_links)
    done = merge(tmp_path / "all", [one], rows_only=True, link=True)
    assert (done.linked, done.records > 0, done.damage) == (0, True, [])
    assert verify(tmp_path / "all", data=True)._replace(segments=0).damage == []
    assert not verify(tmp_path / "all", data=False).leftovers


def test_a_damaged_segment_is_never_linked(tmp_path: Path) -> None:
    one = embedded_demo(tmp_path / "one", entities=16, pairs=60)
    (rows,) = (one / "embeddings" / "rna").glob("*/segments/*/rows/c/0/0")
    data = bytearray(rows.read_bytes())
    data[8] ^= 1
    rows.write_bytes(data)
    done = merge(tmp_path / "all", [one], rows_only=True, link=True)
    assert (done.linked, len(done.damage)) == (1, 1), "the proteins' alone"
    assert verify(tmp_path / "all", data=True).damage == []


def test_a_merge_is_a_copy_unless_links_are_asked_for(tmp_path: Path) -> None:
    """Damage to one cache must not reach the other that was made of it."""
    one = embedded_demo(tmp_path / "one", entities=16, pairs=60)
    assert merge(tmp_path / "all", [one], rows_only=True).linked == 0
    assert all(p.stat().st_nlink == 1 for p in (tmp_path / "all" / "embeddings").rglob("*") if p.is_file())
    for rows in (one / "embeddings").rglob("rows/c/0/0"):
        rows.write_bytes(b"")
    assert verify(tmp_path / "all", data=True).damage == []
