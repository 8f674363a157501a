"""Faults that a user of pairs tables met: what is wrong is said, and the same in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossllm.cache import InputError
from crossllm.pipeline.data.pairs import Where, read_pairs


def refusal(tmp_path: Path, rows: str, where: tuple[Where, ...] = ()) -> tuple[str, ...]:
    path = tmp_path / "p.tsv"
    path.write_text("a_id\tb_id\tlabel\n" + rows)
    with pytest.raises(InputError) as refused:
        read_pairs(path, {"r0"}, {"p0"}, on_bad="skip", where=where)
    return refused.value.lines


def test_a_table_of_bad_rows_alone_shows_the_first(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "r0\tp0\t1\tx\ty\n" * 25)
    assert len(lines) == 21
    assert "p.tsv:2: 5 columns, the header has 3" in lines[0]
    assert "p.tsv:21: " in lines[19]
    assert lines[20].endswith(
        "p.tsv: no pairs are left, 25 bad rows were left out, the first 20 are above; check the file"
    )


def test_where_is_named_where_it_was_given(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "")
    assert line.endswith("no pairs are left; check the file")
    (line,) = refusal(tmp_path, "r0\tp0\t1\n", (Where("label", "0"),))
    assert line.endswith("no pairs are left, 1 row: left out by --where; check the file and --where")
