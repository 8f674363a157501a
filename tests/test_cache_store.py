from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import resign

from crossllm.cache import CacheReader, CacheWriter, Recipe, key_of
from crossllm.cache.maintenance.inspection import info, verify
from crossllm.cache.store.row_source import ZarrRows


def segments(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.glob("embeddings/*/*/segments/*"))


@pytest.mark.parametrize("codec", [zarr.codecs.ZstdCodec(), zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()])
def test_what_zarr_python_writes_is_read_through_zarr(made_cache: Path, recipe: Recipe, codec: Any) -> None:
    """A compressed shard in place of a plain one: another way through the reader, the same bytes."""
    reader = CacheReader(made_cache, recipe)
    before = {key: reader[key].tobytes() for key in reader}
    for path in segments(made_cache):
        array = zarr.open_array(str(path / "rows"), mode="r")
        data, chunk, inner = array[:], array.shards, array.chunks
        shutil.rmtree(path / "rows")
        new = zarr.create_array(
            str(path / "rows"), shape=data.shape, dtype=data.dtype, shards=chunk, chunks=inner, compressors=codec
        )
        new[:] = data
        resign(path)
    reader = CacheReader(made_cache, recipe)
    assert all(isinstance(segment.source, ZarrRows) for segment in reader.segments)
    assert {key: reader[key].tobytes() for key in reader} == before


def test_what_is_not_committed_does_not_exist(made_cache: Path, recipe: Recipe) -> None:
    reader = CacheReader(made_cache, recipe)
    gone = reader.segments[0]
    (gone.path.parent.parent / "commits" / f"{gone.path.name}.json").unlink()
    assert len(CacheReader(made_cache, recipe)) == len(reader) - gone.commit.records
    report = verify(made_cache, data=True)
    assert not report.damage
    assert report.leftovers == [gone.path]


@pytest.mark.slow
def test_a_cache_killed_while_writing_is_clean_and_loses_no_committed_record(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """SIGKILL at random instants: every record said to be committed is there, and the cache is clean as it stands."""
    script = """
import sys, numpy as np
from pathlib import Path
from crossllm.cache import CacheWriter, Recipe, key_of
with CacheWriter(Path(sys.argv[1]), Recipe("rna", "profile", 1, 24), segment_bytes=2000) as writer:
    for n in range(100000):
        writer.add(key_of("rna", "A" * (n + 1)), np.full((5, 24), n % 1000, np.float16))
        print(writer.committed, flush=True)
"""
    for round_ in range(8):
        folder = tmp_path / str(round_)
        child = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.2)))
        os.kill(child.pid, signal.SIGKILL)
        said = [int(line) for line in child.communicate()[0].splitlines()[:-1]]
        report = verify(folder, data=True)
        assert not report.damage
        reader = CacheReader(folder, Recipe("rna", "profile", 1, 24))
        assert len(reader) >= max(said, default=0)
        for n in range(len(reader)):
            assert (reader[key_of("rna", "A" * (n + 1))] == n % 1000).all()


def test_info_counts_distinct_keys(made_cache: Path, made_rows: dict[bytes, np.ndarray], recipe: Recipe) -> None:
    with CacheWriter(made_cache, recipe) as writer:
        key, rows = next(iter(made_rows.items()))
        writer.add(key, rows)
    (found,) = info(made_cache)
    assert found.sequences == len(made_rows)
    assert found.residues == sum(map(len, made_rows.values()))


def test_conflicting_rows_shape_is_our_bug_not_the_users(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="expected"), CacheWriter(tmp_path, recipe) as writer:
        writer.add(key_of("rna", "A"), np.ones((1, 25)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_a_cache_of_more_segments_than_descriptors_can_be_opened(tmp_path: Path, recipe: Recipe) -> None:
    import resource

    with CacheWriter(tmp_path, recipe, segment_bytes=1) as writer:
        for n in range(1, 120):
            writer.add(key_of("rna", "A" * n), np.ones((n, 24)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        reader = CacheReader(tmp_path, recipe)
        assert len(reader) == 119
        assert not verify(tmp_path, data=True).damage
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
