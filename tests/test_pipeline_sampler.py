from __future__ import annotations

import errno
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from crossllm.pipeline.training import prefetch
from crossllm.pipeline.training.prefetch import DEPTH, Place, WaitTime, prefetched
from crossllm.pipeline.training.sampler import Bounds, Side, balanced, cut, ordered_batches, shuffled_batches


@pytest.fixture
def sides(rng: np.random.Generator) -> tuple[Side, Side]:
    """400 pairs of 12 long A entities and 90 short B entities."""
    a, b = rng.integers(0, 12, 400), rng.integers(0, 90, 400)
    return Side(a, rng.integers(100, 900, 12)), Side(b, rng.integers(1, 60, 90))


def tokens_of(batch: np.ndarray, sides: tuple[Side, Side], joined: bool = False) -> int:
    """Encoded and mixed once a distinct entity, or mixed once a pair."""
    distinct, mixed = (
        sum(int(s.tokens[entities(s.of_pair[batch])].sum()) for s in sides) for entities in (np.unique, np.asarray)
    )
    return distinct + (mixed if joined else distinct)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("sharing", [1, 4])
def test_an_epoch_has_every_pair_once_within_bounds(
    rng: np.random.Generator, sides: tuple[Side, Side], sharing: int, joined: bool
) -> None:
    pairs, bounds = rng.choice(400, 300, replace=False), Bounds(16, 9_000 if joined else 6_000, joined)
    most = bounds.tokens
    batches = shuffled_batches(pairs, sides, bounds, sharing, rng)
    assert sorted(np.concatenate(batches)) == sorted(pairs)
    assert all(len(batch) <= 16 and tokens_of(batch, sides, joined) <= most for batch in batches)
    full = [tokens_of(np.concatenate(two), sides, joined) > most or len(two[0]) + len(two[1]) > 16 for two in pairwise(
        cut(np.arange(400), sides, bounds))]  # fmt: skip
    assert all(full[:-1]), "batches are as large as they may be"


def test_sharing_saves_tokens_and_loses_no_randomness(rng: np.random.Generator, sides: tuple[Side, Side]) -> None:
    pairs, bounds = np.arange(400), Bounds(16, 1 << 40)
    plain = shuffled_batches(pairs, sides, bounds, 1, rng)
    grouped = shuffled_batches(pairs, sides, bounds, 8, rng)
    assert sum(tokens_of(b, sides) for b in grouped) < 0.8 * sum(tokens_of(b, sides) for b in plain)
    again = shuffled_batches(pairs, sides, bounds, 8, rng)
    assert {tuple(b) for b in again}.isdisjoint({tuple(b) for b in grouped}), "another epoch, other batches"
    seeds = [shuffled_batches(pairs, sides, bounds, 8, np.random.default_rng(s)) for s in (5, 5)]
    assert all(np.array_equal(x, y) for x, y in zip(*seeds, strict=True))


def test_a_pair_beyond_the_bound_is_a_batch_of_its_own(sides: tuple[Side, Side]) -> None:
    assert [len(batch) for batch in cut(np.arange(20), sides, Bounds(16, 1))] == [1] * 20
    assert cut(np.arange(0), sides, Bounds(16, 1)) == []


def test_prediction_goes_through_the_entities_one_after_the_other(sides: tuple[Side, Side]) -> None:
    order = np.concatenate(ordered_batches(np.arange(400), sides, Bounds(16, 1 << 40)))
    assert sorted(order) == list(range(400))
    assert int((np.diff(sides[0].of_pair[order]) != 0).sum()) == 11, "each A entity's pairs lie together"


def test_ahead_gives_all_in_order_and_measures_waiting() -> None:
    waiting, threads = WaitTime(), set()

    def make(n: int) -> int:
        threads.add(threading.get_ident())
        time.sleep(0.02)
        return n * n

    assert list(prefetched(make, range(6), waiting, nowhere)) == [n * n for n in range(6)]
    assert len(threads) == 1 and threads != {threading.get_ident()}  # noqa: PT018 - one thought
    assert 0.06 < waiting.waited <= waiting.total
    assert 0 < waiting.share <= 1
    assert WaitTime().share == 0


def test_ahead_raises_at_the_item_and_stops() -> None:
    made = []

    def make(n: int) -> int:
        made.append(n)
        if n == 2:
            raise OSError("no such file")
        return n

    found = []
    with pytest.raises(OSError, match="no such file"):
        found += [found.append(n) for n in prefetched(make, range(1000), WaitTime(), nowhere)]
    assert found == [0, 1]
    assert len(made) < 10
    assert makers() == [], "a thread outlives the error"


def test_a_closed_ahead_stops_making() -> None:
    made = []
    stream = prefetched(made.append, range(1000), WaitTime(), nowhere)
    next(stream)
    assert makers() != []
    stream.close()  # type: ignore[attr-defined]
    assert makers() == [], "a thread outlives its stream"
    assert len(made) <= 1 + DEPTH, "what was begun, and no more"


def test_a_reader_that_hangs_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "TICK", 0.01)
    let_go = threading.Event()

    def make(n: int) -> int:
        if n == 3:
            let_go.wait(60)
        return n

    found: list[int] = []
    with pytest.raises(OSError, match=r"reading record 7: nothing came for 0\.25 s") as caught:
        found.extend(prefetched(make, range(10), WaitTime(), lambda: Place("cache/x", "record 7")))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "cache/x")
    assert makers() != [], "it was waited for"
    let_go.set()
    for thread in makers():
        thread.join(10)
    assert makers() == []


def test_a_slow_reader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each result takes less than the limit, all together more."""
    monkeypatch.setattr(prefetch, "TICK", 0.02)
    assert list(prefetched(lambda n: time.sleep(0.15) or n, range(6), WaitTime(), nowhere)) == list(range(6))


def test_a_reader_that_is_gone_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_work", lambda _make, _asked: None)
    with pytest.raises(OSError, match="its reader is gone"):
        list(prefetched(int, range(3), WaitTime(), nowhere))


def nowhere() -> Place:
    return Place("", "")


def makers() -> list[threading.Thread]:
    """Threads of `prefetched` that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetched")]


@pytest.mark.parametrize("counts", [(40, 2), (3, 17), (5, 5), (0, 4), (4, 0), (1, 1)])
def test_balanced_has_as_many_of_each_class_and_every_pair(rng: np.random.Generator, counts: tuple[int, int]) -> None:
    labels = rng.permutation(np.repeat([0.0, 1.0], counts))
    pairs = rng.permutation(1000)[: len(labels)]
    found = balanced(pairs, labels, rng)
    assert set(found.tolist()) == set(pairs.tolist())
    label_of = dict(zip(pairs.tolist(), labels.tolist(), strict=True))
    drawn = np.array([label_of[pair] for pair in found.tolist()])
    if min(counts):
        assert (drawn == 0).sum() == (drawn == 1).sum() == max(counts)
    times = np.unique(found, return_counts=True)[1]
    assert times.max() <= -(-max(counts) // max(min(counts), 1))
