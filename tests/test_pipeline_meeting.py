"""Ids of pairs that have no record: what they may have been meant to be, and one line for a whole column."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossllm.cache import InputError
from crossllm.pipeline.data.pairs import read_pairs

HEADER = "a_id\tb_id\tlabel\nr0\tp0\t1\nr0\tp0\t1\n"
# an id of the second column → the records' ids, what is said
CASES = {
    "P99991": ({"sp|P99991|MADE_UP"}, "the input has 'sp|P99991|MADE_UP', the same with more between bars? write both"),
    "sp|Q1|X": ({"Q1"}, "the input has 'Q1', the same alone, without bars?"),
    "NM_1.2": ({"NM_1.3"}, "the input has 'NM_1.3', the same of another version?"),
    "NM_1": ({"NM_1.3"}, "'NM_1.3', the same of another version?"),
    "Q2": ({"tr|Q2.1|Y"}, "'tr|Q2.1|Y', the same of another version?"),
    "mir-21": ({"MIR-21"}, "the input has 'MIR-21', the same in another case?"),
    "x\u200b": ({"x"}, "it holds an invisible character 0x200b that 'x' has not: remove it"),
    "x": ({"x\u200b"}, "the input's id holds an invisible character 0x200b: remove it there"),
    "r0": ({"p9"}, "it is a record of the other side: are b_id and a_id swapped?"),
    "what": ({"b", "c", "d"}, "ids there look like 'b', 'c'; add it or remove the pair"),
}


@pytest.mark.parametrize("id_", CASES)
def test_an_id_without_a_record_says_what_it_may_be(id_: str, tmp_path: Path) -> None:
    known, say = CASES[id_]
    path = tmp_path / "p.tsv"
    path.write_text(HEADER + f"r0\t{id_}\t1\n")
    with pytest.raises(InputError) as refusal:
        read_pairs(path, {"r0"}, known | {"p0"})
    (line,) = refusal.value.lines
    assert "p.tsv:4: b_id '" in line
    assert say.replace("'b', 'c'", "'b', 'c'") in line


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_a_column_of_which_no_id_is_known_is_one_line(tmp_path: Path, on_bad: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("a_id\tb_id\tlabel\np0\tr0\t1\np1\tr0\t0\n")
    with pytest.raises(InputError) as refusal:
        read_pairs(path, {"r0"}, {"p0", "p1"}, on_bad=on_bad)  # type: ignore[arg-type]
    (line,) = refusal.value.lines
    assert "p.tsv: no id of column a_id has a record; the first: line 2: a_id 'p0' has no record" in line
    assert "are a_id and b_id swapped?" in line
