"""Caches in an object store: what is written there is what is read, by ranges, within a bound, and damage is found."""

from __future__ import annotations

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from s3_proxy import Bucket
from stores import STORES

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, InputError, Recipe, choose_recipe, key_of, read_table
from crossllm.cache.errors import CrossLLMError
from crossllm.cache.files.paths import shown_url
from crossllm.cache.maintenance.indexing import index
from crossllm.cache.records.id_table import publish_table
from crossllm.cache.records.record import record_of
from crossllm.cache.remote import budget, by_path, held_file, mirror, objects
from crossllm.cache.remote.address import Address, parse_address
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.remote.opening import open_cache
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.row_source import IO

Rows = dict[bytes, np.ndarray]
LOGINS = [
    "s3://user:{}@bucket/x", "s3://bucket/x?X-Amz-Signature={}", "https://u:a/{}@host/x", "az://c/x?sig={}",
    "gs://b/x#{}", "s3://{}@bucket/x",
]  # fmt: skip


def stored(bucket: Bucket, recipe: Recipe, rows: Rows, local: Path, **how: object) -> Path:
    """Rows written into a cache of the bucket; the folder that stands for it."""
    folder = open_cache(bucket.url(), local)
    with CacheWriter(folder, recipe, **how) as writer:  # type: ignore[arg-type]
        for key, found in rows.items():
            writer.add(key, found)
    return folder


def large_rows(rng: np.random.Generator, recipe: Recipe, count: int, length: int) -> Rows:
    """Records of the same length."""
    values = rng.standard_normal((count, length, recipe.dim)).astype(np.float16)
    return {key_of("rna", f"r{n}"): values[n] for n in range(count)}


def assert_same(reader: CacheReader, rows: Rows) -> None:
    assert len(reader) == len(rows)
    for key, found in rows.items():
        assert reader[key].tobytes() == found.tobytes()
    packed = reader.gather(list(rows))
    assert packed.rows.tobytes() == b"".join(found.tobytes() for found in rows.values())


def test_an_address_is_taken_apart() -> None:
    assert parse_address("s3://bucket/a/b") == Address("s3", "bucket", "a/b")
    assert str(parse_address("gs://bucket/a/b/")) == "gs://bucket/a/b"
    assert parse_address("file:///data/my%20cache") == Path("/data/my cache")


@pytest.mark.parametrize(
    "given",
    ["s3://", "s3://bucket", "s3://bucket/", "s3:///x", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/a b",
     "s3://b/x", "ftp://bucket/x", "file://host/x", "s3://bucket/x\n", "s3://[bad/x"],
)  # fmt: skip
def test_no_address(given: str) -> None:
    with pytest.raises(InputError, match=r"^--cache "):
        parse_address(given)


@pytest.mark.parametrize("form", LOGINS)
def test_a_login_in_an_address_is_refused_and_not_repeated(form: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_address(form.format("hush"))
    assert "hush" not in str(refused.value)
    assert "hush" not in shown_url(form.format("hush"))


@pytest.mark.parametrize(("store", "compressor"), STORES)
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_what_is_written_is_read_on_another_machine(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows, store: Store, compressor: Compressor, io: IO
) -> None:
    stored(bucket, recipe, made_rows, tmp_path / "here", store=store, compressor=compressor, segment_bytes=200_000)
    assert not bucket.proxy.of_rows(), "what was written here is here"
    folder = open_cache(bucket.url(), tmp_path / "there")
    assert choose_recipe(folder, "rna") == recipe
    assert_same(CacheReader(folder, recipe, io=io), made_rows)
    assert bucket.proxy.of_rows()
    bucket.proxy.clear()
    again = open_cache(bucket.url(), tmp_path / "there")
    assert_same(CacheReader(again, recipe, io=io), made_rows)
    assert not bucket.proxy.of_rows()
    assert len(bucket.proxy.requests) <= 6, "listings, nothing else"


@pytest.mark.parametrize(("store", "compressor"), STORES)
def test_rows_are_read_by_ranges(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, rng: np.random.Generator, store: Store, compressor: Compressor
) -> None:
    rows = large_rows(rng, recipe, 40, 6000)  # 288 kB each, 11.5 MB in all
    stored(bucket, recipe, rows, tmp_path / "here", store=store, compressor=compressor)
    reader = CacheReader(open_cache(bucket.url(), tmp_path / "there"), recipe)
    bucket.proxy.clear()
    key = list(rows)[20]
    assert reader[key].tobytes() == rows[key].tobytes()
    asked = [[int(n) for n in (r.range or "").removeprefix("bytes=").split("-")] for r in bucket.proxy.of_rows()]
    assert sum(stop - start + 1 for start, stop in asked) <= 6 * held_file.GRAIN
    wanted = list(rows)[:10]
    bucket.proxy.clear()
    reader.gather(wanted)
    assert len(bucket.proxy.of_rows()) <= 2, "neighbours come together"
    bucket.proxy.clear()
    reader.fetch([*rows, key_of("rna", "absent")])
    reader.gather(list(rows))
    assert len(bucket.proxy.of_rows()) <= 4


def test_the_bound_holds_and_nothing_is_wrong_under_it(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, rng: np.random.Generator
) -> None:
    rows = large_rows(rng, recipe, 24, 10_000)  # 480 kB each, two a segment
    stored(bucket, recipe, rows, tmp_path / "here", segment_bytes=900_000)
    local, bound = tmp_path / "there", 3 << 20
    reader = CacheReader(open_cache(bucket.url(), local, bound), recipe)
    assert len(reader.segments) == 12
    keys, views = list(rows), {}
    for n in rng.integers(0, len(keys), 30).tolist():
        views[keys[n]] = reader[keys[n]]
        held = sum(p.stat().st_blocks * 512 for p in local.rglob("rows/c/0/0"))
        assert held <= bound + 1_000_000, "a segment more at most"
    assert all(found.tobytes() == rows[key].tobytes() for key, found in views.items()), "views outlive an eviction"
    assert_same(reader, rows)
    assert len(bucket.proxy.of_rows()) > 24, "some were fetched again"
    views.clear()
    maps = Path("/proc/self/maps")
    gone = [line for line in maps.read_text().splitlines() if str(local) in line and "(deleted)" in line]
    assert not [line for line in gone if held_file.MAP not in line], "what is evicted is not held by a map"


@pytest.mark.parametrize(("store", "compressor"), STORES)
def test_threads_share_a_bound_that_is_far_too_small(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, rng: np.random.Generator, store: Store, compressor: Compressor
) -> None:
    """Each fetch evicts what another thread reads."""
    rows = large_rows(rng, recipe, 8, 6000)
    stored(bucket, recipe, rows, tmp_path / "here", store=store, compressor=compressor, segment_bytes=500_000)
    reader = CacheReader(open_cache(bucket.url(), tmp_path / "there", 300_000), recipe)
    wanted = [list(rows)[n] for n in rng.integers(0, len(rows), 40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda key: reader[key].tobytes(), wanted))
    assert found == [rows[key].tobytes() for key in wanted]


def test_two_readers_evict_each_other_and_read_the_same(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, rng: np.random.Generator
) -> None:
    rows = large_rows(rng, recipe, 6, 20_000)
    stored(bucket, recipe, rows, tmp_path / "here", segment_bytes=900_000)
    folder = open_cache(bucket.url(), tmp_path / "there")
    readers = [CacheReader(folder, recipe, io=io) for io in ("mmap", "pread")]
    for n in range(30):
        key = list(rows)[int(rng.integers(len(rows)))]
        assert readers[n % 2][key].tobytes() == rows[key].tobytes()
        if n % 3 == 0:
            held = sorted(folder.glob(f"embeddings/*/*/segments/*/{held_file.MAP}"))
            if held:
                budget.evict(held[int(rng.integers(len(held)))].parent)


@pytest.mark.parametrize(("store", "compressor"), STORES)
@pytest.mark.parametrize("late", [False, True])
def test_a_damaged_copy_is_fetched_again(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows, store: Store, compressor: Compressor, late: bool
) -> None:
    folder = stored(bucket, recipe, made_rows, tmp_path / "here", store=store, compressor=compressor)
    reader = CacheReader(folder, recipe)
    if late:
        assert_same(reader, made_rows)
    (path,) = folder.rglob("segment.h5" if store == "h5" else "rows/c/0/0")
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert_same(reader if late else CacheReader(folder, recipe), made_rows)
    assert bucket.proxy.of_rows()


def test_a_damaged_copy_of_an_index_is_fetched_again(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows
) -> None:
    folder = stored(bucket, recipe, made_rows, tmp_path / "here")
    (small,) = folder.rglob("digest/c/0/0")
    small.write_bytes(small.read_bytes()[::-1])
    assert_same(CacheReader(folder, recipe), made_rows)


def test_damage_in_the_store_is_an_error_that_names_the_object(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows
) -> None:
    stored(bucket, recipe, made_rows, tmp_path / "here")
    (name,) = [name for name in bucket.names() if name.endswith("rows/c/0/0")]
    whole = bucket.get(name)
    first = next(iter(made_rows))
    for data in (b"\0" + whole[1:], whole[: len(whole) // 2], None):
        bucket.delete(name) if data is None else bucket.put(name, data)
        reader = CacheReader(open_cache(bucket.url(), tmp_path / f"there-{data and len(data)}"), recipe)
        with pytest.raises(CacheCorrupt):
            _ = reader[first]
    bucket.put(name, whole)
    (name,) = [name for name in bucket.names() if name.endswith("offsets/c/0")]
    bucket.put(name, bytes(len(bucket.get(name))))
    reader = CacheReader(open_cache(bucket.url(), tmp_path / "elsewhere"), recipe)
    with pytest.raises(CacheCorrupt, match=rf"^s3://{bucket.name}/cache/embeddings/.*offsets/c/0: does not match"):
        _ = reader[first]


def test_a_reader_is_opened_again_in_another_process(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows
) -> None:
    """As a worker that is spawned does: by the folder alone, which says what it stands for."""
    reader = CacheReader(stored(bucket, recipe, made_rows, tmp_path / "here"), recipe)
    by_path._known.cache_clear()
    assert_same(pickle.loads(pickle.dumps(reader)), made_rows)


def test_a_dataset_that_changed_is_copied_again(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("cache/dataset.toml", b"a = 1\n")
    bucket.put("cache/pairs.tsv", b"one\n")
    bucket.put("cache/notes.docx", b"not ours")
    folder = open_cache(bucket.url(), tmp_path)
    assert sorted(p.name for p in folder.glob("[!.]*")) == ["dataset.toml", "pairs.tsv"]
    bucket.put("cache/pairs.tsv", b"two\n")
    bucket.proxy.clear()
    assert (open_cache(bucket.url(), tmp_path) / "pairs.tsv").read_bytes() == b"two\n"
    assert len([r for r in bucket.proxy.requests if "list-type" not in r.path]) == 1
    bucket.delete("cache/pairs.tsv")
    open_cache(bucket.url(), tmp_path)
    assert not (folder / "pairs.tsv").exists()


def test_the_list_of_failures_goes_along(bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows) -> None:
    list_here = recipe.folder(stored(bucket, recipe, made_rows, tmp_path / "here")) / "failed.tsv"
    by_path.replace(list_here, b"id\tkey\n")
    list_there = recipe.folder(open_cache(bucket.url(), tmp_path / "there")) / "failed.tsv"
    assert list_there.read_bytes() == b"id\tkey\n"
    by_path.discard(list_there)
    open_cache(bucket.url(), tmp_path / "here")
    assert not list_here.exists()
    assert not list_there.exists()


def test_rows_that_lie_elsewhere_are_refused(bucket: Bucket, tmp_path: Path, recipe: Recipe) -> None:
    bucket.put("cache/dataset.toml", b'embeddings = "../all"\n')
    with pytest.raises(InputError, match="holds its own alone"):
        recipe.folder(open_cache(bucket.url(), tmp_path))


def test_two_endpoints_are_two_caches(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_cache(bucket.url(), tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{bucket.proxy.upstream}")
    assert open_cache(bucket.url(), tmp_path) != one


def test_ids_and_recipes_come_along(bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows) -> None:
    folder = stored(bucket, recipe, made_rows, tmp_path / "here")
    records = [record_of("rna", f"id{n}", "ACGU" * (n + 1)) for n in range(5)]
    publish_table(folder, "rna", records[:3])
    other = open_cache(bucket.url(), tmp_path / "there")
    assert {id_: e.key for id_, e in read_table(other, "rna").items()} == {r.id: r.key for r in records[:3]}
    publish_table(other, "rna", records)
    assert len(read_table(folder, "rna")) == 3
    assert len(read_table(open_cache(bucket.url(), tmp_path / "here"), "rna")) == 5


def test_what_others_commit_is_seen(
    bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "FRESH_SECONDS", 0.0)
    keys = list(made_rows)
    stored(bucket, recipe, {keys[0]: made_rows[keys[0]]}, tmp_path / "here")
    there = open_cache(bucket.url(), tmp_path / "there")
    assert len(CacheReader(there, recipe)) == 1
    stored(bucket, recipe, {keys[1]: made_rows[keys[1]]}, tmp_path / "here")
    assert len(CacheReader(there, recipe)) == 2
    (name, _) = [name for name in bucket.names() if "/commits/" in name]
    bucket.delete(name)
    assert len(CacheReader(there, recipe)) == 2, "what is young may be another process's, that the listing missed"
    for path in there.rglob("commits/*.json"):
        os.utime(path, (time.time() - 3600,) * 2)
    assert len(CacheReader(there, recipe)) == 1


def test_a_dead_writer_leaves_no_rows_behind(bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows) -> None:
    folder = open_cache(bucket.url(), tmp_path / "here")
    pid = os.fork()
    if pid == 0:
        writer = CacheWriter.__new__(CacheWriter)
        from crossllm.cache.store.segment_writer import SegmentWriter

        where = recipe.folder(folder)
        (where / "segments").mkdir(parents=True)
        SegmentWriter(where, recipe)
        del writer
        os._exit(0)
    os.waitpid(pid, 0)
    (left,) = [p for p in (recipe.folder(folder) / "segments").iterdir() if p.is_dir()]
    stored(bucket, recipe, made_rows, tmp_path / "here")
    assert not left.exists()
    assert not list((recipe.folder(folder) / "segments").glob(".writer-*"))


def test_a_forked_process_is_told(bucket: Bucket, tmp_path: Path, recipe: Recipe, made_rows: Rows) -> None:
    """The threads of the library do not live on in it: it would wait for ever."""
    folder = stored(bucket, recipe, made_rows, tmp_path / "here")
    pid = os.fork()
    if pid == 0:
        found = mirror_of(folder)
        assert found is not None
        try:
            found.objects.listed("")
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_refusals_of_a_store_are_the_users_to_mend(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no such bucket"):
        open_cache("s3://absent-bucket/x", tmp_path)
    from s3_proxy import SECRET, Rule

    for status in ("403", "401"):
        bucket.proxy.rules.append(Rule(status, times=1))
        with pytest.raises(InputError, match="access refused") as refused:
            open_cache(bucket.url(), tmp_path)
        assert SECRET not in str(refused.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:1")
    monkeypatch.setattr("crossllm.cache.remote.connection.RETRIES", 0)
    with pytest.raises((CrossLLMError, OSError)) as failed:
        open_cache(bucket.url(), tmp_path)
    assert SECRET not in str(failed.value)


def test_a_key_index_in_the_store_spares_the_small_files_of_segments(
    bucket: Bucket, recipe: Recipe, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is that of a reader without it, also with segments that came later; an older index goes."""
    monkeypatch.setattr(objects, "_PIECE", 500)
    rows = large_rows(rng, recipe, 40, 3)
    parts = [dict(list(rows.items())[n : n + 5]) for n in range(0, 40, 5)]
    for part in parts[:7]:
        stored(bucket, recipe, part, tmp_path / "writer")
    index(open_cache(bucket.url(), tmp_path / "writer"))
    stored(bucket, recipe, parts[7], tmp_path / "writer")
    (first,) = [name for name in bucket.names() if name.endswith(".idx")]

    bucket.proxy.clear()
    reader = CacheReader(open_cache(bucket.url(), tmp_path / "reader"), recipe)
    assert reader._file is not None
    assert not reader.absent(list(rows)).any()
    assert len({r.path.split("/")[7] for r in bucket.proxy.requests if "/digest/" in r.path}) == 1, "the later one"
    assert reader[next(iter(rows))].tobytes() == next(iter(rows.values())).tobytes()
    assert_same(reader, rows)
    assert_same(CacheReader(open_cache(bucket.url(), tmp_path / "reader"), recipe, use_index=False), rows)

    index(open_cache(bucket.url(), tmp_path / "other"))
    (second,) = [name for name in bucket.names() if name.endswith(".idx")]
    assert second != first
    assert_same(CacheReader(open_cache(bucket.url(), tmp_path / "reader"), recipe), rows)
    bucket.put(second, bucket.get(second)[:-20])
    reader = CacheReader(open_cache(bucket.url(), tmp_path / "fresh"), recipe)
    assert reader._file is None, "a damaged one is as none"
    assert_same(reader, rows)
