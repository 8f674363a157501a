"""`CacheReader` beyond one key: gathering, workers, files that shrink, segments that move, damage beside sound data."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Recipe, key_of
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.cache.store import reader
from crossllm.cache.store.commit import commit_paths, publish_commit, read_commit
from crossllm.cache.store.row_source import IO, ZarrRows
from crossllm.cache.store.segment import ROWS

IOS: tuple[IO, ...] = ("mmap", "pread")


@pytest.fixture(params=IOS)
def io(request: pytest.FixtureRequest) -> IO:
    found: IO = request.param
    return found


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small gathers go through the threads as well."""
    monkeypatch.setattr(reader, "_INLINE_BYTES", 0)


@pytest.mark.usefixtures("threaded")
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_gather_is_the_records_one_after_the_other(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], rng: np.random.Generator, io: IO, threads: int
) -> None:
    opened = CacheReader(made_cache, recipe, io=io, threads=threads)
    held = list(made_rows)
    out = np.full((30000, 24), 7, np.float16)
    for count in (0, 1, 2, 40, 100):
        keys = [held[n] for n in rng.integers(0, len(held), count)]
        packed = opened.gather(keys, out)
        expected = b"".join(made_rows[key].tobytes() for key in keys)
        assert packed.rows.tobytes() == expected == opened.gather(keys).rows.tobytes()
        assert packed.offsets.tolist() == np.cumsum([0, *(len(made_rows[key]) for key in keys)]).tolist()
        assert np.shares_memory(packed.rows, out) == bool(count)


def test_gather_refuses_what_does_not_fit(made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]) -> None:
    opened, keys = CacheReader(made_cache, recipe), list(made_rows)[:3]  # 1 + 2 + 300 rows
    for out in (
        np.empty((302, 24), np.float16),
        np.empty((303, 25), np.float16),
        np.empty((303, 24), np.float32),
        np.empty((24, 303), np.float16).T,
    ):
        with pytest.raises(ValueError, match="out "):
            opened.gather(keys, out)
    with pytest.raises(KeyError, match=key_of("rna", "A").hex()):
        opened.gather([*keys, key_of("rna", "A")])
    with pytest.raises(ValueError, match="32 bytes"):
        opened.gather([b"short"])


@pytest.mark.usefixtures("threaded")
def test_gather_checks_what_it_hands_out(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], io: IO
) -> None:
    opened = CacheReader(made_cache, recipe, io=io)
    segment = opened.segments[0]
    key = segment.digest[0].tobytes()
    _flip(segment.path / ROWS, 0)
    with pytest.raises(CacheCorrupt, match=key.hex()):
        opened.gather(list(made_rows))
    others = [other for other in made_rows if other != key]
    assert opened.gather(others).rows.tobytes() == b"".join(made_rows[other].tobytes() for other in others)


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_file_cut_under_a_reader_is_an_error_with_pread(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    """With a map it would be SIGBUS, which no Python code can answer."""
    opened = CacheReader(made_cache, recipe, io="pread")
    segment = opened.segments[0]
    last = segment.digest[-1].tobytes()
    assert opened[last].tobytes() == made_rows[last].tobytes()
    os.truncate(segment.path / ROWS, 100)
    with pytest.raises(CacheCorrupt, match="was cut"):
        opened[last]
    with pytest.raises(CacheCorrupt, match="was cut"):
        opened.gather([last])


@pytest.mark.usefixtures("threaded")
def test_a_segment_that_was_compacted_away_is_found_again(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], io: IO
) -> None:
    before, untouched = CacheReader(made_cache, recipe, io=io), CacheReader(made_cache, recipe, io=io)
    keys = list(made_rows)
    half = [key for segment in before.segments[:1] for key in map(bytes, segment.digest)]
    for key in half:  # these are mapped or open by now, and stay
        before[key]
    folder = before.folder
    old = commit_paths(folder)
    with CacheWriter(made_cache, recipe) as writer:
        for key, rows in made_rows.items():
            writer.add(key, rows)
    for path in old:
        path.unlink()
        shutil.rmtree(folder / "segments" / path.stem)
    for opened in (before, untouched):
        assert all(opened[key].tobytes() == rows.tobytes() for key, rows in made_rows.items())
        assert opened.gather(keys).rows.tobytes() == b"".join(rows.tobytes() for rows in made_rows.values())
    del untouched
    fresh = CacheReader(made_cache, recipe, io=io)
    shutil.rmtree(folder / "segments" / fresh.segments[0].name)  # its commit record is still there: damage, not gc
    with pytest.raises(CacheCorrupt, match="missing"):
        fresh.gather(keys)


def test_zarr_python_reading_what_went_away_is_no_row_of_zeros(made_cache: Path, recipe: Recipe) -> None:
    """It reads by name each time and fills in zeros for a shard that is not there."""
    opened = CacheReader(made_cache, recipe)
    segment = opened.segments[0]
    segment.source = ZarrRows(segment.path / "rows")
    first = segment.digest[0].tobytes()
    assert opened[first].any()
    (segment.path / ROWS).unlink()
    with pytest.raises(CacheCorrupt):
        opened[first]


def test_damage_in_one_segment_does_not_hide_the_others(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    sound = CacheReader(made_cache, recipe)
    lost = {key for segment in sound.segments[:2] for key in map(bytes, segment.digest)}
    assert 0 < len(lost) < len(made_rows)
    _flip(sound.segments[0].path / "offsets/c/0", 3)
    _flip(commit_paths(sound.folder)[1], 30)
    opened = CacheReader(made_cache, recipe)
    assert len(opened.damage) == 2
    for key in made_rows.keys() - lost:
        assert opened[key].tobytes() == made_rows[key].tobytes()
        assert key in opened
    for key in lost:  # never "absent": nobody knows
        for ask in (opened.__getitem__, opened.__contains__, opened.length, lambda k: opened.missing([k])):
            with pytest.raises(CacheCorrupt, match="offsets"):
                ask(key)
    for count in (len, list, lambda r: r.residues):
        with pytest.raises(CacheCorrupt):
            count(opened)
    with pytest.raises(CacheCorrupt):
        opened.gather(list(made_rows))
    assert opened.gather(list(made_rows.keys() - lost))


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path, recipe: Recipe) -> None:
    keys = [b"\x01" * 8 + bytes([n]) * 24 for n in range(5)]
    for _ in range(2):  # each twice, in two segments
        with CacheWriter(tmp_path, recipe) as writer:
            for n, key in enumerate(keys[:4]):
                writer.add(key, np.full((n + 1, 24), n))
    opened = CacheReader(tmp_path, recipe)
    assert len(opened) == 4
    assert list(opened) == keys[:4]
    assert opened.residues == 10
    assert opened.missing(keys) == keys[4:]
    assert [len(opened[key]) for key in keys[:4]] == [1, 2, 3, 4]
    assert opened.gather(keys[3::-1]).offsets.tolist() == [0, 4, 7, 9, 10]


def test_an_empty_cache_lacks_every_key(tmp_path: Path, recipe: Recipe) -> None:
    opened = CacheReader(tmp_path, recipe)
    assert (len(opened), list(opened), opened.residues) == (0, [], 0)
    assert opened.missing([key_of("rna", "A")]) == [key_of("rna", "A")]
    assert opened.gather([]).rows.shape == (0, 24)


def test_prefetch_is_a_hint(made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], io: IO) -> None:
    opened = CacheReader(made_cache, recipe, io=io)
    opened.prefetch([*made_rows, key_of("rna", "A")])
    assert all(opened[key].tobytes() == rows.tobytes() for key, rows in made_rows.items())


class Rows(Dataset[torch.Tensor]):
    """Sums of the rows of each key, read in a worker."""

    def __init__(self, opened: CacheReader, keys: list[bytes]) -> None:
        self.opened, self.keys = opened, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, n: int) -> torch.Tensor:
        rows = self.opened.gather([self.keys[n], self.keys[0]]).rows
        return torch.from_numpy(rows.astype(np.float64).sum(0))


@pytest.mark.slow
@pytest.mark.usefixtures("threaded")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_dataloader_workers_read_the_same(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], io: IO, start: str
) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    opened, keys = CacheReader(made_cache, recipe, io=io, threads=2), list(made_rows)[:12]
    opened.gather(keys)  # the parent has threads of its own when it forks
    rows = Rows(opened, keys)
    workers = 2 if start == "fork" else 1  # one that is spawned takes seconds to import torch
    loader = DataLoader(rows, batch_size=None, num_workers=workers, multiprocessing_context=start)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Python 3.12 on fork and threads
        found = list(loader)
    assert all(torch.equal(a, rows[n]) for n, a in enumerate(found))
    assert len(found) == len(keys)


def test_a_pickled_reader_is_opened_again(made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(CacheReader(made_cache, recipe, io="pread", threads=3)))
    assert set(again) == set(made_rows)
    key = next(iter(made_rows))
    assert not isinstance(again[key].base, np.memmap)
    assert again[key].tobytes() == made_rows[key].tobytes()


def test_a_reader_keeps_to_what_was_there_when_it_was_opened(made_cache: Path, recipe: Recipe) -> None:
    opened = CacheReader(made_cache, recipe)
    with CacheWriter(made_cache, recipe) as writer:
        writer.add(key_of("rna", "A"), np.ones((1, 24)))
    assert key_of("rna", "A") not in opened
    assert key_of("rna", "A") in CacheReader(made_cache, recipe)


def test_a_superseding_commit_hides_a_segment(made_cache: Path, recipe: Recipe) -> None:
    opened = CacheReader(made_cache, recipe)
    first, second = (read_commit(path) for path in commit_paths(opened.folder)[:2])
    (opened.folder / "commits" / f"{first.segment}.json").unlink()
    publish_commit(opened.folder, first._replace(supersedes=(second.segment,)))
    assert len(CacheReader(made_cache, recipe)) == len(opened) - second.records


def test_no_thread_writes_after_gather_has_raised(tmp_path: Path, recipe: Recipe) -> None:
    """Stragglers of a failed call would write over what the next one puts into the same buffer."""
    rows = {key_of("rna", "A" * n): np.full((2000, 24), n % 100, np.float16) for n in range(1, 200)}
    with CacheWriter(tmp_path, recipe) as writer:
        for key, own in rows.items():
            writer.add(key, own)
    (segment,) = CacheReader(tmp_path, recipe).segments
    _flip(segment.path / ROWS, 5)
    keys = list(rows)
    out = np.zeros((2000 * len(keys), 24), np.float16)
    for _ in range(5):
        opened = CacheReader(tmp_path, recipe, threads=4)
        with pytest.raises(CacheCorrupt):
            opened.gather(keys, out)
        out[:] = 7
        assert (out == 7).all()
        packed = opened.gather(keys[1:3], out)
        time.sleep(0.02)
        assert (packed.rows[:2000] == 2).all()
        assert (out[4000:] == 7).all()


def test_prefetch_of_what_was_compacted_away_is_no_error(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], io: IO
) -> None:
    opened = CacheReader(made_cache, recipe, io=io)
    compact(made_cache)
    collect_garbage(made_cache)
    opened.prefetch(made_rows)
    assert opened.gather(list(made_rows)).rows.tobytes() == b"".join(rows.tobytes() for rows in made_rows.values())
