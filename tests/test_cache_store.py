from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache import CacheCorrupt, CacheReader, CacheWriter, Recipe, choose_recipe, key_of, list_recipes
from cache.commit import commit_paths
from cache.errors import RowsRefused
from cache.inspection import info, verify
from cache.rowfile import MappedRows, ZarrRows
from cache.segment import ROWS


def segments(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.glob("embeddings/*/*/segments/*"))


def test_rows_come_back_bit_for_bit(made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]) -> None:
    reader = CacheReader(made_cache, recipe)
    assert len(reader.segments) > 1
    assert set(reader) == set(made_rows)
    for key, rows in made_rows.items():
        assert reader[key].tobytes() == rows.tobytes()
        assert reader.length(key) == len(rows)
        assert not reader[key].flags.writeable
    assert key_of("rna", "A") not in reader
    absent = f"no rows for key {key_of('rna', 'A').hex()} in recipe {recipe.folder_name}"
    with pytest.raises(KeyError, match=absent):
        reader[key_of("rna", "A")]
    with pytest.raises(KeyError, match=absent):
        reader.length(key_of("rna", "A"))


def test_fast_path_is_a_view_and_equals_zarr(made_cache: Path, recipe: Recipe) -> None:
    for segment in CacheReader(made_cache, recipe).segments:
        assert isinstance(segment.source, MappedRows)
        assert np.shares_memory(segment.rows(0), segment.rows(0))
        group = zarr.open_group(str(segment.path), mode="r")
        for index in range(segment.commit.records):
            start, stop = segment.offsets[index], segment.offsets[index + 1]
            assert group["rows"][start:stop].tobytes() == segment.rows(index).tobytes()
        assert (group["offsets"][:] == segment.offsets).all()
        assert (group["digest"][:] == segment.digest).all()
        assert (group["crc32c"][:] == segment.crc32c).all()


def test_what_zarr_python_writes_is_read_through_zarr(made_cache: Path, recipe: Recipe) -> None:
    """A compressed shard in place of a plain one: another way through the reader, the same bytes."""
    reader = CacheReader(made_cache, recipe)
    before = {key: reader[key].tobytes() for key in reader}
    for path in segments(made_cache):
        array = zarr.open_array(str(path / "rows"), mode="r")
        data, chunk, inner = array[:], array.shards, array.chunks
        shutil.rmtree(path / "rows")
        zstd = zarr.codecs.ZstdCodec()
        new = zarr.create_array(
            str(path / "rows"), shape=data.shape, dtype=data.dtype, shards=chunk, chunks=inner, compressors=zstd
        )
        new[:] = data
        _resign(path)
    reader = CacheReader(made_cache, recipe)
    assert all(isinstance(segment.source, ZarrRows) for segment in reader.segments)
    assert {key: reader[key].tobytes() for key in reader} == before


def _resign(segment: Path) -> None:
    """Write the commit record of a segment again for its files as they are now."""
    from cache.commit import FileSum, publish_commit, read_commit
    from cache.fsio import crc32c

    path = segment.parent.parent / "commits" / f"{segment.name}.json"
    commit = read_commit(path)
    files = {n: FileSum(len(d), crc32c(d)) for n in commit.files for d in [(segment / n).read_bytes()]}
    path.unlink()
    publish_commit(segment.parent.parent, commit._replace(files=files))


def test_a_writer_left_on_an_exception_commits_nothing(tmp_path: Path, recipe: Recipe) -> None:
    with contextlib.suppress(ZeroDivisionError), CacheWriter(tmp_path, recipe) as writer:
        writer.add(key_of("rna", "A"), np.ones((1, 24)))
        raise ZeroDivisionError
    assert not segments(tmp_path)
    assert len(CacheReader(tmp_path, recipe)) == 0


def test_what_is_not_committed_does_not_exist(made_cache: Path, recipe: Recipe) -> None:
    reader = CacheReader(made_cache, recipe)
    gone = reader.segments[0]
    (gone.path.parent.parent / "commits" / f"{gone.path.name}.json").unlink()
    assert len(CacheReader(made_cache, recipe)) == len(reader) - gone.commit.records
    report = verify(made_cache, data=True)
    assert not report.damage
    assert report.leftovers == [gone.path]


def test_superseded_segments_are_ignored_and_doubles_count_once(tmp_path: Path, recipe: Recipe) -> None:
    key = key_of("rna", "ACGU")
    for value in (1.0, 2.0):
        with CacheWriter(tmp_path, recipe) as writer:
            writer.add(key, np.full((4, 24), value))
    reader = CacheReader(tmp_path, recipe)
    assert len(reader) == 1
    assert len(reader.segments) == 2
    first, second = reader.segments
    from cache.commit import publish_commit

    (first.path.parent.parent / "commits" / f"{first.path.name}.json").unlink()
    publish_commit(first.path.parent.parent, first.commit._replace(supersedes=(second.path.name,)))
    assert [s.path for s in CacheReader(tmp_path, recipe).segments] == [first.path]


@pytest.mark.parametrize(("value", "match"), [(np.nan, "finite"), (np.inf, "finite"), (1e5, "overflows float16")])
def test_rows_that_must_never_be_stored_are_refused(tmp_path: Path, recipe: Recipe, value: float, match: str) -> None:
    with CacheWriter(tmp_path, recipe) as writer:
        with pytest.raises(RowsRefused, match=match):
            writer.add(key_of("rna", "A"), np.full((3, 24), value))
        writer.add(key_of("rna", "C"), np.zeros((3, 24)))
    assert set(CacheReader(tmp_path, recipe)) == {key_of("rna", "C")}


def test_every_bit_flip_of_a_file_is_found(made_cache: Path, recipe: Recipe, rng: np.random.Generator) -> None:
    """One random bit in each of many places of every file of a cache: never a wrong byte without an error."""
    path = segments(made_cache)[0]
    files = [p for p in path.rglob("*") if p.is_file()]
    files += [*commit_paths(path.parent.parent), path.parent.parent / "recipe.json"]
    for file in files:
        good = file.read_bytes()
        for place in rng.integers(0, len(good), min(len(good), 60)).tolist():
            data = bytearray(good)
            data[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            report = verify(made_cache, data=True)
            assert report.damage, f"bit flip at byte {place} of {file.name} not found"
        file.write_bytes(good)
    assert not verify(made_cache, data=True).damage


def test_a_flipped_record_is_refused_and_the_others_stay_readable(made_cache: Path, recipe: Recipe) -> None:
    path = segments(made_cache)[0]
    shard = path / ROWS
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    reader = CacheReader(made_cache, recipe)
    segment = next(s for s in reader.segments if s.path == path)
    with pytest.raises(CacheCorrupt, match="does not match its crc32c"):
        reader[segment.digest[0].tobytes()]
    for key in set(reader) - {segment.digest[0].tobytes()}:
        reader[key]


@pytest.mark.parametrize("cut", ["shorter", "longer", "missing"])
def test_a_file_of_another_size_is_refused_before_it_is_mapped(made_cache: Path, recipe: Recipe, cut: str) -> None:
    shard = segments(made_cache)[0] / ROWS
    data = shard.read_bytes()
    shard.unlink()
    if cut != "missing":
        shard.write_bytes(data[:-1] if cut == "shorter" else data + b"x")
    with pytest.raises(CacheCorrupt):
        len(CacheReader(made_cache, recipe))
    assert verify(made_cache, data=False).damage


def test_a_foreign_codec_is_refused(made_cache: Path, recipe: Recipe) -> None:
    path = segments(made_cache)[0]
    meta = path / "rows" / "zarr.json"
    body = json.loads(meta.read_text())
    body["codecs"] = [{"name": "numcodecs.pickle"}]
    meta.write_text(json.dumps(body))
    _resign(path)
    with pytest.raises(CacheCorrupt, match=r"numcodecs\.pickle"):
        len(CacheReader(made_cache, recipe))


def test_a_linked_file_is_not_followed(made_cache: Path, recipe: Recipe, tmp_path: Path) -> None:
    shard = segments(made_cache)[0] / ROWS
    outside = tmp_path / "outside"
    outside.write_bytes(shard.read_bytes())
    shard.unlink()
    shard.symlink_to(outside)
    assert verify(made_cache, data=False).damage


def test_a_cache_killed_while_writing_is_clean_and_loses_no_committed_record(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """SIGKILL at random instants: every record said to be committed is there, and the cache is clean as it stands."""
    script = """
import sys, numpy as np
from pathlib import Path
from cache import CacheWriter, Recipe, key_of
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


def test_the_cache_of_format_1_is_read_for_ever() -> None:
    """tests/data/format-1 was written once by the first release of the format."""
    folder = Path(__file__).parent / "data" / "format-1"
    reader = CacheReader(folder, choose_recipe(folder, "rna", None))
    assert not verify(folder, data=True).damage
    for letters in ("A", "ACGU", "GGAUC" * 9):
        expected = np.outer(np.arange(len(letters)), np.arange(1, 5)).astype(np.float16)
        assert (reader[key_of("rna", letters)] == expected).all()


NESTED = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [1, 24],
        "codecs": [{"name": "numcodecs.pickle"}],
        "index_codecs": [{"name": "bytes"}],
    },
}
DAMAGE = {
    "recipe gone": lambda recipe_dir: (recipe_dir / "recipe.json").unlink(),
    "recipe is a folder": lambda recipe_dir: _folder_for(recipe_dir / "recipe.json"),
    "commit is a folder": lambda recipe_dir: _folder_for(commit_paths(recipe_dir)[0]),
    "commit of another recipe": lambda recipe_dir: _sign(recipe_dir, recipe="0" * 64),
    "commit supersedes itself": lambda recipe_dir: _sign(recipe_dir, supersedes=(commit_paths(recipe_dir)[0].stem,)),
    "segment is a link": lambda recipe_dir: _link_for(next((recipe_dir / "segments").iterdir())),
    "rows of no chunk": lambda recipe_dir: _edit_rows(recipe_dir, chunk_shape=[0, 24]),
    "rows folder is a link": lambda recipe_dir: _link_for(next((recipe_dir / "segments").iterdir()) / "rows"),
    "rows of 2^50 chunks": lambda recipe_dir: _edit_rows(recipe_dir, chunk_shape=[1, 24], shard_shape=[2**50, 24]),
    "pickle codec in a shard in a shard": lambda recipe_dir: _edit_rows(recipe_dir, codecs=[NESTED]),
    "rows of no shape": lambda recipe_dir: _edit_rows(recipe_dir, chunk_shape=[]),
}


def read_everything(cache_dir: Path) -> None:
    reader = CacheReader(cache_dir, list_recipes(cache_dir, "rna")[0])
    for key in reader:
        reader[key]


def _folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_for(path: Path) -> None:
    path.symlink_to(path.rename(path.parent.parent / "elsewhere"))


def _sign(recipe_dir: Path, **changes: object) -> None:
    from cache.commit import publish_commit, read_commit

    path = commit_paths(recipe_dir)[0]
    commit = read_commit(path)
    path.unlink()
    publish_commit(recipe_dir, commit._replace(**changes))  # type: ignore[arg-type]


def _edit_rows(recipe_dir: Path, shard_shape: list[int] | None = None, **configuration: object) -> None:
    segment = recipe_dir / "segments" / commit_paths(recipe_dir)[0].stem
    body = json.loads((segment / "rows" / "zarr.json").read_text())
    body["codecs"][0]["configuration"].update(configuration)
    if shard_shape is not None:
        body["chunk_grid"]["configuration"]["chunk_shape"] = shard_shape
    (segment / "rows" / "zarr.json").write_text(json.dumps(body))
    _resign(segment)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_of_every_kind_is_damage_to_verify_and_to_readers(made_cache: Path, name: str) -> None:
    (recipe_dir,) = (made_cache / "embeddings" / "rna").iterdir()
    DAMAGE[name](recipe_dir)
    assert verify(made_cache, data=True).damage
    with pytest.raises(CacheCorrupt):
        read_everything(made_cache)


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
