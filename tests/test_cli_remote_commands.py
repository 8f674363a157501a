"""Every command that reads or writes a cache, given the address of one in an object store: as on a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from remote_commands import run
from s3_proxy import Bucket

from crossllm.cache import CacheReader, choose_recipe, open_cache

HERE = "here/cache"
"""The same cache as a folder, so the dataset has one name in both."""
READING = {
    "cache status": ("cache", "status", "-i", "rna.fasta", "--num-shards", "2", "-c", "CACHE", "--modality", "rna"),
    "cache export": ("cache", "export", "CACHE", "--modality", "rna", "--format", "npz", "-o", "OUT/rows.npz"),
    "data split": ("data", "split", "-c", "CACHE", "--split", "cold-b", "--folds", "2", "-o", "OUT/splits.tsv"),
    "data leaks": ("data", "leaks", "-c", "CACHE", "--folds", "2"),
}
FILES = ("--pairs", "new.tsv", "--a", "rna=new_rna.fasta", "--b", "protein=new_protein.fasta")
SIDES = FILES[2:]
USING = {
    "predict": ("predict", "runs/r", "--data", "CACHE", *FILES, "-o", "OUT/found.tsv"),
    "predict into a cache": ("predict", "runs/r", "--data", HERE, "-c", "CACHE", *FILES, "-o", "OUT/found.tsv"),
    "screen": ("screen", "runs/r", "--data", "CACHE", *SIDES, "-o", "OUT/found.tsv", "--top", "5"),
    "explain": ("explain", "runs/r", "--data", "CACHE", *FILES, "-o", "OUT/of", "--steps", "4"),
    "evaluate": ("evaluate", "runs/r", "--data", "CACHE", "-c", "CACHE", "-o", "OUT"),
}


@pytest.fixture
def both(bucket: Bucket, inputs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """A dataset with rows, as a folder and as an address."""
    sides = ("--a", "rna=rna.fasta", "--b", "protein=protein.fasta", "--pairs", "pairs.tsv")
    for cache in (HERE, bucket.url()):
        run(capsys, "crossllm", "data", "import", *sides, "-c", cache)
        for modality in ("rna", "protein"):
            run(capsys, "embed", "run", "--modality", modality, "-i", f"{modality}.fasta", "--encoder", "profile",
                "-c", cache, "--quiet")  # fmt: skip
    return HERE, bucket.url()


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(words: tuple[str, ...], caches: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What a command prints and writes, whichever of the caches it is given."""
    said = []
    for n, cache in enumerate(caches):
        asked = [word.replace("CACHE", cache).replace("OUT", f"out{n}") for word in words]
        Path(f"out{n}").mkdir()
        out, err = run(capsys, "crossllm", *asked)
        assert "user-cache" not in out + err, "the folder of the copies"
        out = out.replace(cache, "CACHE").replace(f"out{n}", "OUT")
        said.append(re.sub(r"[0-9,.]+ pairs a second", "", out))
    assert said[0] == said[1]
    assert written(Path("out0")) == written(Path("out1"))


@pytest.mark.parametrize("name", READING)
def test_what_reads_says_and_writes_the_same(
    name: str, both: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_same(READING[name], both, capsys)


@pytest.mark.usefixtures("undrawn")
def test_what_uses_a_run_says_and_writes_the_same(both: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", HERE, "--epochs", "1", "--folds", "2", "--baselines", "none", "-o", "runs/r", "--quiet")
    for name, words in USING.items():
        assert_same(words, both, capsys)
        for n in range(2):
            Path(f"out{n}").rename(f"{name} {n}")
    there = open_cache(both[1], Path("elsewhere"))
    assert len(CacheReader(there, choose_recipe(there, "rna"))) == 12, "new rows went there"


@pytest.mark.usefixtures("undrawn")
def test_an_ablation_from_a_store(both: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--grid", "d_model=4,8", "--set", "epochs=1", "--set", "folds=2", "--baselines", "none", "--json")
    _, err = run(capsys, "crossllm", "ablate", both[1], *flags, code=2)
    assert "--out: is needed" in err
    here, there = (json.loads(run(capsys, "crossllm", "ablate", cache, *flags, "-o", f"o{n}")[0])["rows"]
                   for n, cache in enumerate(both))  # fmt: skip
    assert [row["metrics"]["model"] for row in here] == [row["metrics"]["model"] for row in there]
    assert there[0]["metrics"]["dataset"] == "cache", "as the address is named"


def test_what_writes_writes_the_same(both: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--modality", "rna", "-i", "rnafm.h5", "--fasta", "rna.fasta", "--source", "made")
    for cache in both:
        run(capsys, "crossllm", "cache", "import", *flags, "-c", cache)
        run(capsys, "crossllm", "cache", "index", cache)
    for name in ("made", "profile"):
        folders = (Path(HERE), open_cache(both[1], Path("elsewhere")))
        one, other = (CacheReader(folder, choose_recipe(folder, "rna", name)) for folder in folders)
        assert other._file is not None, "by its key index"
        assert {key: one[key].tobytes() for key in one} == {key: other[key].tobytes() for key in other}


def test_rows_of_another_cache_are_copied_and_never_linked(
    bucket: Bucket, both: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("embed", "run", "--modality", "rna", "-i", "rna.fasta", "--encoder", "profile", "--json", "--quiet")
    for into, source in (("copy", both[1]), (bucket.url("copy"), HERE), (bucket.url("again"), both[1])):
        out, err = run(capsys, *asked, "-c", into, "--from-cache", source)
        assert (json.loads(out)["embedded"], json.loads(out)["copied"]) == (0, 8)
        assert "linked" not in err
        assert "clean" in run(capsys, "crossllm", "cache", "verify", into, "--data")[0]
    assert all(path.stat().st_nlink == 1 for path in Path(HERE).rglob("*") if path.is_file())
