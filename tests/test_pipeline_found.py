"""Faults that a user of pairs tables met: what is wrong is said, and the same in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossllm.cache import InputError
from crossllm.pipeline.data.pairs import Side, Where, read_pairs


def refusal(tmp_path: Path, rows: str, where: tuple[Where, ...] = ()) -> tuple[str, ...]:
    path = tmp_path / "p.tsv"
    path.write_text("a_id\tb_id\tlabel\n" + rows)
    with pytest.raises(InputError) as refused:
        read_pairs(path, {"r0"}, {"p0"}, on_bad="skip", where=where)
    return refused.value.lines


def test_a_table_of_bad_rows_alone_shows_the_first(tmp_path: Path) -> None:
    fault, all_ = refusal(tmp_path, "r0\tp0\t1\tx\ty\n" * 25)
    assert "p.tsv:2: 5 columns, the header has 3" in fault
    assert "(25 such, lines 2, 3, 4, " in fault
    assert all_.endswith("p.tsv: no pairs are left, 25 bad rows were left out; check the file")
    lines = refusal(tmp_path, "".join(f"r{'x' * n}\tp0\t1\nr0\tp0\ta{'x' * n}\n" for n in range(1, 30)))
    assert lines[-1].endswith("p.tsv: no pairs are left, 58 bad rows were left out; check the file")


def test_where_is_named_where_it_was_given(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "")
    assert line.endswith("no pairs are left; check the file")
    (line,) = refusal(tmp_path, "r0\tp0\t1\n", (Where("label", "0"),))
    assert line.endswith("no pairs are left, 1 row: left out by --where; check the file and --where")


AMBIGUOUS = {
    "A": (["A.2", "A.1"], "the input has 'A.2', 'A.1': which is meant? write that one"),
    "A.3": (["A.2", "A.1"], "the input has 'A.2', 'A.1': which is meant?"),
    "Mir-1": (["mir-1", "MIR-1"], "the input has 'mir-1', 'MIR-1': which is meant?"),
    "G1": (["T9|G1", "T1|G1", "T5|G2"], "the input has 'T9|G1', 'T1|G1': which is meant?"),
    "P1|Q1": (["Q1", "P1"], "the input has 'P1', 'Q1': which is meant?"),
    "01": (["1", "001"], "the input has '1', '001': which is meant?"),
    "X": ([f"X.{n}" for n in range(9)], "'X.4' and 4 more: which is meant?"),
}


@pytest.mark.parametrize("id_", AMBIGUOUS)
def test_all_ids_that_may_be_meant_are_named_in_order(id_: str) -> None:
    ids, say = AMBIGUOUS[id_]
    said = Side("a_id", dict.fromkeys(ids).keys()).stranger(id_, None)
    assert say in said
    assert "the same" not in said
    assert Side("a_id", set(ids)).stranger(id_, None) == Side("a_id", dict.fromkeys(sorted(ids)).keys()).stranger(
        id_, None
    )


SPELT = {
    ">r0": ("r0", "the input has 'r0': write it without the '>'"),
    ">r0 made up": ("r0", "the input has 'r0': write it without the '>'"),
    "r0 some description": ("r0", "the input has 'r0': an id is the first word of a FASTA header; write that alone"),
    '="r0"': ("r0", "the input has 'r0': remove the quotes around it and the '='"),
    "'r0'": ("r0", "the input has 'r0': remove the quotes around it"),
    "1": ("001", "the input has '001', the same with other zeros before it? write both alike"),
    "001": ("1", "the input has '1', the same with other zeros before it? write both alike"),
    "702.0": ("702", "the input has '702': a float, as pandas makes of a column with gaps?"),
    "caf\u00e9": ("cafe\u0301", "the same in other code points (NFC and NFD): write both alike"),
    "cafe\u0301": ("caf\u00e9", "the same in other code points (NFC and NFD): write both alike"),
}


@pytest.mark.parametrize("id_", SPELT)
def test_an_id_spelt_otherwise_has_its_hint(id_: str) -> None:
    known, say = SPELT[id_]
    assert say in Side("a_id", {known, "other"}).stranger(id_, Side("b_id", {"p0"}))
