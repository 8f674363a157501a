"""What networks do to the requests of a cache in an object store: nothing committed is lost, nothing else is read."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cache_races import RECIPE, keys_of, never, rows_of
from s3_proxy import Bucket, Rule

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Conflict
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.remote import connection, mirror, objects
from crossllm.cache.remote.address import parse_address
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.remote.objects import Objects
from crossllm.cache.remote.opening import open_cache

ROUNDS = 200 if os.environ.get("CROSSLLM_CHAOS") else 6
WRITERS = 4
COMMIT = r"/commits/[0-9a-f]{32}\.json"
PASSING = ("lost_reply", "lost_request", "slow", "500", "503", "409", "412")
KEY = keys_of(0, 0)[0]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.002)


def write(folder: Path, keys: list[bytes], acked: list[bytes] | None = None) -> None:
    acked = [] if acked is None else acked
    with CacheWriter(folder, RECIPE, on_commit=acked.extend) as writer:
        for key in keys:
            writer.add(key, rows_of(key))


def opened(bucket: Bucket) -> Objects:
    address = parse_address(bucket.url())
    assert not isinstance(address, Path)
    return Objects(address)


@pytest.mark.parametrize("fault", PASSING)
def test_a_commit_record_is_there_once_whatever_becomes_of_the_request(
    bucket: Bucket, tmp_path: Path, fault: str
) -> None:
    folder = open_cache(bucket.url(), tmp_path / "here")
    bucket.proxy.rules.append(Rule(fault, "PUT", COMMIT))
    acked: list[bytes] = []
    write(folder, [KEY], acked)
    assert bucket.proxy.met[fault] == 1
    assert acked == [KEY]
    assert sum("/commits/" in name for name in bucket.names()) == 1
    there = CacheReader(open_cache(bucket.url(), tmp_path / "there"), RECIPE)
    assert there[KEY].tobytes() == rows_of(KEY).tobytes()


@pytest.mark.parametrize("fault", ["lost_reply", "500", "409", "412"])
def test_uploads_of_a_segment_are_asked_for_again(bucket: Bucket, tmp_path: Path, fault: str) -> None:
    folder = open_cache(bucket.url(), tmp_path / "here")
    bucket.proxy.rules += [Rule(fault, "PUT", r"rows/c/0/0"), Rule(fault, "PUT", r"recipe\.json")]
    write(folder, [KEY])
    assert bucket.proxy.met[fault] == 2
    there = CacheReader(open_cache(bucket.url(), tmp_path / "there"), RECIPE)
    assert there[KEY].tobytes() == rows_of(KEY).tobytes()


@pytest.mark.parametrize("fault", ["lost_reply", "lost_request", "slow", "cut", "500", "503"])
def test_reads_are_asked_for_again(bucket: Bucket, tmp_path: Path, fault: str) -> None:
    write(open_cache(bucket.url(), tmp_path / "here"), [KEY])
    asked = ("list-type", COMMIT, "recipe", "digest/c/0/0", "rows/c/0/0")
    bucket.proxy.rules += [Rule(fault, "GET", path) for path in asked]
    there = CacheReader(open_cache(bucket.url(), tmp_path / "there"), RECIPE)
    assert there[KEY].tobytes() == rows_of(KEY).tobytes()
    assert bucket.proxy.met[fault] == len(asked)


def test_a_store_without_conditional_put(bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = open_cache(bucket.url(), tmp_path / "here")
    bucket.proxy.rules.append(Rule("501", "PUT", times=1000, header="if-none-match"))
    write(folder, [KEY])
    write(folder, keys_of(1, 0))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {bucket.url()}: the store knows no conditional PUT")
    assert bucket.proxy.met["501"] == 1
    there = CacheReader(open_cache(bucket.url(), tmp_path / "there"), RECIPE)
    assert set(there) == {KEY, *keys_of(1, 0)}
    plain = opened(bucket)
    plain.put_new("a.json", b"1")
    plain.put_new("a.json", b"1")
    with pytest.raises(Conflict, match="is there with other bytes"):
        plain.put_new("a.json", b"2")
    bucket.proxy.rules.append(Rule("lost_reply", "PUT", "b.json"))
    plain.put_new("b.json", b"1")
    assert bucket.get("cache/b.json") == b"1"


def test_a_name_is_never_given_other_bytes(bucket: Bucket) -> None:
    found = opened(bucket)
    found.put_new("a.json", b"1")
    found.put_new("a.json", b"1")
    with pytest.raises(Conflict, match=rf"^{bucket.url()}/a.json: is there with other bytes"):
        found.put_new("a.json", b"2")
    assert bucket.get("cache/a.json") == b"1"


@pytest.mark.parametrize(
    ("where", "fault"),
    [(COMMIT, "500"), ("digest/c/0/0", "500"), (COMMIT, "lost_request"), (COMMIT, "409"), ("digest/c/0/0", "403")],
)
def test_a_store_that_never_answers_leaves_nothing_half_done(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fault: str
) -> None:
    monkeypatch.setattr(connection, "RETRIES", 1)
    monkeypatch.setattr(objects, "TRIES", 3)
    folder = open_cache(bucket.url(), tmp_path / "here")
    write(folder, keys_of(1, 0))
    bucket.proxy.rules.append(Rule(fault, "PUT", where, times=1000))
    acked: list[bytes] = []
    with pytest.raises((OSError, Exception)) as failed:
        write(folder, [KEY], acked)
    if fault != "403":
        assert isinstance(failed.value, OSError)
        assert failed.value.errno == errno.ETIMEDOUT
        assert str(failed.value.filename).startswith(bucket.url())
    assert not acked
    bucket.proxy.clear()
    assert len([p for p in (RECIPE.folder(folder) / "segments").iterdir() if p.is_dir()]) == 1, "nothing stays here"
    for local in (tmp_path / "here", tmp_path / "there"):
        opened_again = open_cache(bucket.url(), local)
        assert set(CacheReader(opened_again, RECIPE)) == set(keys_of(1, 0))
        assert not verify(opened_again, data=True).damage


def test_a_body_that_is_damaged_on_its_way_is_fetched_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(open_cache(bucket.url(), tmp_path / "here"), [KEY])
    folder = open_cache(bucket.url(), tmp_path / "there")
    true, spoilt = Objects.get, []

    def spoiling(self: Objects, name: str) -> bytes:
        data = true(self, name)
        if name.endswith("digest/c/0/0") and not spoilt:
            spoilt.append(name)
            return b"\0" + data[1:]
        return data

    monkeypatch.setattr(Objects, "get", spoiling)
    assert CacheReader(folder, RECIPE)[KEY].tobytes() == rows_of(KEY).tobytes()
    assert spoilt


class _Given(Exception):
    """A writer that dies before it commits."""


def round_of(
    bucket: Bucket, folders: list[Path], reading: Path, number: int, rng: np.random.Generator
) -> tuple[set[bytes], set[bytes]]:
    """Writers at once on keys that they share, with faults, and some that die, beside a reader.

    What the writers were told is committed, and what the reader found meanwhile.
    """
    bucket.proxy.clear()
    kinds = rng.choice(PASSING, 6).tolist()
    paths = [COMMIT, "segments/", "rows/c/0/0", "list-type", COMMIT, COMMIT]
    bucket.proxy.rules += [Rule(k, "GET" if p == "list-type" and not k.startswith("4") else "PUT", p)
                           for k, p in zip(kinds, paths, strict=True)]  # fmt: skip

    def one(n: int) -> list[bytes]:
        acked: list[bytes] = []
        write(folders[n], keys_of(n, number), acked)
        try:
            with CacheWriter(folders[n], RECIPE) as writer:
                writer.add(never(n, number), rows_of(never(n, number)))
                raise _Given
        except _Given:
            return acked

    def uploaded_only(n: int) -> list[bytes]:
        """One whose last step fails: all is in the store but the commit record."""
        found = mirror_of(folders[n])
        assert found is not None
        put, found.objects.put_new = found.objects.put_new, _refuse  # type: ignore[method-assign]
        try:
            write(folders[n], [never(n, number)])
        except _Given:
            return []
        finally:
            found.objects.put_new = put  # type: ignore[method-assign]
        raise AssertionError

    works: list[Callable[[int], list[bytes]]] = [one] * (WRITERS - 1) + [uploaded_only]
    with ThreadPoolExecutor(WRITERS + 1) as pool:
        running = [pool.submit(work, n) for n, work in enumerate(works)]
        seen: set[bytes] = set()
        while not all(work.done() for work in running):
            meanwhile = CacheReader(reading, RECIPE)
            assert all(meanwhile[key].tobytes() == rows_of(key).tobytes() for key in meanwhile)
            seen |= set(meanwhile)
        return {key for work in running for key in work.result()}, seen


def _refuse(_name: str, _data: bytes) -> None:
    raise _Given


def test_racing_writers_lose_no_commit_and_show_nothing_else(
    bucket: Bucket, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CROSSLLM_CHAOS=1`: 200 rounds."""
    monkeypatch.setattr(mirror, "FRESH_SECONDS", 0.0)
    bucket.proxy.slow_seconds = 0.05
    began, records, met = time.monotonic(), 0, 0
    acked: set[bytes] = set()
    for number in range(ROUNDS):
        cache = f"cache{number // 20}"
        if number % 20 == 0:
            acked = set()
            folders = [open_cache(bucket.url(cache), tmp_path / f"w{n}") for n in range(WRITERS)]
            write(folders[-1], keys_of(7, number))  # its recipe is there: only its commits fail
            acked |= set(keys_of(7, number))
            reading = open_cache(bucket.url(cache), tmp_path / "reader")
        told, seen = round_of(bucket, folders, reading, number, rng)
        acked |= told
        assert seen <= acked, "nothing is read that was not committed"
        met += sum(bucket.proxy.met.values())
        reader = CacheReader(reading, RECIPE)
        assert set(reader) == acked, "what was committed, all of it and nothing else"
        assert all(reader[key].tobytes() == rows_of(key).tobytes() for key in acked)
        records += len(acked) + len(seen)
    print(f"{ROUNDS} rounds, {met} faults met, {records} records read, {time.monotonic() - began:.0f} s")


def test_readers_under_faults_read_what_is_true_or_nothing(
    bucket: Bucket, tmp_path: Path, rng: np.random.Generator
) -> None:
    keys = [key for n in range(8) for key in keys_of(n, 0)]
    write(open_cache(bucket.url(), tmp_path / "here"), keys)
    for n in range(4):
        kinds = rng.choice(["lost_reply", "cut", "500", "slow"], 12).tolist()
        bucket.proxy.rules += [Rule(kind, "GET", path) for kind in kinds for path in ("segments", "commits")]
        reader = CacheReader(open_cache(bucket.url(), tmp_path / f"r{n}"), RECIPE)
        try:
            assert all(reader[key].tobytes() == rows_of(key).tobytes() for key in keys)
        except CacheCorrupt as error:
            pytest.fail(str(error))
