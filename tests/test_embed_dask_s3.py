"""`--dask` with caches in object stores: workers find a cache by its address, on whatever machine they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask_workers import cluster
from remote_commands import run
from s3_proxy import SECRET, Bucket
from test_embed_dask import embedded, write_fasta

from crossllm.cache import CacheReader, choose_recipe, open_cache

pytestmark = pytest.mark.slow


@pytest.fixture
def elsewhere(tmp_path: Path, bucket: Bucket) -> Iterator[Any]:
    """A cluster whose workers are as on another machine: they keep copies in a place of their own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path / "of-workers"))
        with cluster(2) as found:
            patched.undo()
            yield found


def test_workers_of_another_machine_write_into_a_bucket(
    bucket: Bucket, elsewhere: Any, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta = write_fasta(tmp_path / "rna.fasta", rng, 200)
    embedded(fasta, tmp_path / "plain")
    flags = ("embed", "run", "--modality", "rna", "-i", fasta, "--encoder", "profile", "-c", bucket.url(), "--quiet")
    out, err = run(capsys, *flags, "--dask", elsewhere.scheduler_address)
    assert "embedded 200" in out
    assert SECRET not in out + err
    assert list((tmp_path / "of-workers").rglob("rows/c/0/0"))
    assert not list((tmp_path / "user-cache").rglob("rows/c/0/0"))
    folders = (tmp_path / "plain", open_cache(bucket.url(), tmp_path / "third"))
    one, other = (CacheReader(folder, choose_recipe(folder, "rna")) for folder in folders)
    assert len(other) == 200
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    assert "nothing to embed" in run(capsys, *flags, "--dask", "local:2")[0]


@pytest.mark.usefixtures("undrawn")
def test_rows_of_an_ablation_from_a_bucket(
    bucket: Bucket, inputs: Path, elsewhere: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ("--a", "rna=rna.fasta", "--b", "protein=protein.fasta", "--pairs", "pairs.tsv")
    for cache in ("here/cache", bucket.url()):
        run(capsys, "crossllm", "data", "import", *sides, "-c", cache)
        for modality in ("rna", "protein"):
            run(capsys, "embed", "run", "--modality", modality, "-i", f"{modality}.fasta", "--encoder", "profile",
                "-c", cache, "--quiet")  # fmt: skip
    flags = ("--grid", "d_model=4,8", "--set", "epochs=1", "--set", "folds=2", "--baselines", "none", "--json")
    said = [run(capsys, "crossllm", "ablate", "here/cache", *flags, "-o", "one")[0],
            run(capsys, "crossllm", "ablate", bucket.url(), *flags, "-o", "two", "--dask",
                elsewhere.scheduler_address)[0]]  # fmt: skip
    here, there = (json.loads(one)["rows"] for one in said)
    assert [row["metrics"]["model"] for row in here] == [row["metrics"]["model"] for row in there]
