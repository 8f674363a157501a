"""The thread that writes: the same cache as without it, its errors raised where rows are handed over."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from crossllm.cache import CacheReader, CacheWriter, Recipe, RowsRefused, key_of
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.store.background_writer import BackgroundWriter


def keys_of(cache: Path, recipe: Recipe) -> set[bytes]:
    return set(CacheReader(cache, recipe))


@pytest.mark.parametrize("ahead", [0, 5000, 1 << 30])
def test_the_same_segments_as_without_a_thread(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], ahead: int
) -> None:
    """The same records in segments of the same size, whatever may wait."""
    with CacheWriter(tmp_path / "plain", recipe, segment_bytes=20_000) as plain:
        for key, rows in made_rows.items():
            plain.add(key, rows)
    acked: list[bytes] = []
    writer = CacheWriter(tmp_path / "behind", recipe, segment_bytes=20_000, on_commit=acked.extend)
    buffer = np.empty((300, 24), np.float16)
    with BackgroundWriter(writer, ahead) as behind:
        for key, rows in made_rows.items():
            buffer[: len(rows)] = rows  # an encoder may use its memory again at once
            behind.add(key, buffer[: len(rows)])
    assert acked == list(made_rows)
    assert "cache-writer" not in [t.name for t in threading.enumerate()]
    found, expected = (CacheReader(tmp_path / name, recipe) for name in ("behind", "plain"))
    assert sorted(s.commit.records for s in found.segments) == sorted(s.commit.records for s in expected.segments)
    assert {key: found[key].tobytes() for key in found} == {key: rows.tobytes() for key, rows in made_rows.items()}
    assert not verify(tmp_path / "behind", data=True).damage


def test_without_anything_ahead_each_record_is_written_before_the_next(tmp_path: Path, recipe: Recipe) -> None:
    with BackgroundWriter(CacheWriter(tmp_path, recipe, segment_bytes=1), 0) as writer:
        for n in range(1, 4):
            writer.add(key_of("rna", "A" * n), np.ones((n, 24)))
            assert len(CacheReader(tmp_path, recipe)) == n, "committed when add returns"


def test_no_more_waits_than_is_allowed(tmp_path: Path, recipe: Recipe) -> None:
    """While the disk stands still, `add` takes what fits and then waits."""
    go, slow = threading.Event(), CacheWriter(tmp_path, recipe)
    put = slow.put
    slow.put = lambda records: (go.wait(60), put(records))[1]  # type: ignore[method-assign]
    added: list[int] = []

    def hand_over() -> None:
        with BackgroundWriter(slow, 10_000) as writer:
            for n in range(8):
                writer.add(key_of("rna", "A" * (n + 1)), np.ones((100, 24)))  # 4,800 bytes as float16
                added.append(n)

    thread = threading.Thread(target=hand_over)
    thread.start()
    time.sleep(0.3)
    assert len(added) < 3
    go.set()
    thread.join(60)
    assert len(added) == 8
    assert len(keys_of(tmp_path, recipe)) == 8


def test_a_segment_is_committed_in_time_though_no_record_comes(tmp_path: Path, recipe: Recipe) -> None:
    committed = threading.Event()
    writer = CacheWriter(tmp_path, recipe, segment_seconds=0.1, on_commit=lambda _: committed.set())
    with BackgroundWriter(writer) as behind:
        behind.add(key_of("rna", "A"), np.ones((1, 24)))
        assert committed.wait(30), "the encoder is busy with a long batch"
        assert keys_of(tmp_path, recipe) == {key_of("rna", "A")}


@pytest.mark.parametrize("ahead", [0, 1 << 30])
def test_an_error_of_the_disk_stops_the_run_and_keeps_what_is_committed(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
    written: list[bytes] = []

    def on_commit(keys: Sequence[bytes]) -> None:
        written.extend(keys)
        if len(written) == 2:
            raise full

    def write() -> None:
        with BackgroundWriter(CacheWriter(tmp_path, recipe, segment_bytes=1, on_commit=on_commit), ahead) as writer:
            for n in range(1, 6):
                writer.add(key_of("rna", "A" * n), np.ones((n, 24)))

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value is full
    assert keys_of(tmp_path, recipe) == set(written)
    assert len(written) == 2
    committed = {segment.name for segment in CacheReader(tmp_path, recipe).segments}
    assert {path.name for path in tmp_path.rglob("segments/*") if path.is_dir()} == committed


def test_an_error_of_the_encoder_abandons_what_is_open(tmp_path: Path, recipe: Recipe) -> None:
    def write() -> None:
        with BackgroundWriter(CacheWriter(tmp_path, recipe)) as writer:
            writer.add(key_of("rna", "A"), np.ones((1, 24)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not keys_of(tmp_path, recipe)
    assert "cache-writer" not in [t.name for t in threading.enumerate()]


def test_refused_rows_are_said_at_once_and_the_rest_goes_on(tmp_path: Path, recipe: Recipe) -> None:
    with BackgroundWriter(CacheWriter(tmp_path, recipe)) as writer:
        with pytest.raises(RowsRefused):
            writer.add(key_of("rna", "A"), np.full((1, 24), np.inf))
        writer.add(key_of("rna", "C"), np.ones((1, 24)))
    assert keys_of(tmp_path, recipe) == {key_of("rna", "C")}
