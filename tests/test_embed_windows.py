from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossllm.cache import record_of
from crossllm.embed.encoders.windows import by_budget, windows


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 2000), st.sampled_from([(440, 220), (10, 9), (10, 0), (7, 3), (1022, 511)]))
def test_windows_cover_every_row_once_from_where_it_stands_furthest_inside(length: int, sizes: tuple[int, int]) -> None:
    size, overlap = sizes
    found = windows(length, f"window:{size}:{overlap}")
    assert [row for w in found for row in range(w.keep_from, w.keep_to)] == list(range(length))
    assert all(w.stop - w.start == min(size, length) for w in found), "every window is whole"
    assert (found[0].start, found[-1].stop) == (0, length)
    for w in found:
        for row in {w.keep_from, w.keep_to - 1} & set(range(length)):
            inside = [min(row - o.start, o.stop - 1 - row) for o in found]
            best = min(row - w.start, w.stop - 1 - row)
            # To within the half row by which an even window has no middle.
            assert best >= max(inside) - 1


def test_whole_and_short_sequences_are_one_window() -> None:
    assert windows(900, "whole") == windows(900, "window:900:100") == [(0, 900, 0, 900)]


@pytest.mark.parametrize("length", [1, 899, 900, 901, 5000])
def test_truncate_is_the_first_window_alone(length: int) -> None:
    kept = min(length, 900)
    assert windows(length, "truncate:900") == [(0, kept, 0, kept)]


def test_budget_groups_keep_order_and_size() -> None:
    records = [record_of("rna", str(n), "A" * n) for n in (5, 4, 30, 1, 1, 9)]
    groups = list(by_budget(records, 10))
    assert [[r.length for r in group] for group in groups] == [[5, 4], [30], [1, 1], [9]]
    assert list(by_budget([], 10)) == []
