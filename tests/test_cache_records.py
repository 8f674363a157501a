from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from cache import Conflict, InputError, key_of, record_of
from cache.errors import CacheCorrupt
from cache.fasta import read_fasta
from cache.idtable import publish_table, read_table
from cache.records import AMBIGUOUS, CERTAIN, normalise


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_reads_ids_sequences_and_keys(tmp_path: Path) -> None:
    found = read_fasta(write(tmp_path / "a.fasta", ">x one\nACG\nUUU\n\n>y\nGG\n"), "rna")
    assert [(r.id, r.sequence) for r in found.records] == [("x", "ACGUUU"), ("y", "GG")]
    assert found.records[0].key == hashlib.sha256(b"rna\nACGUUU").digest()


def test_key_is_golden() -> None:
    assert key_of("rna", "ACGU").hex() == "5fbe907e69212a96f9df2008adf428634cd5b666e80e5a2f8916717398b84ac6"
    assert key_of("rna", "ACGU") != key_of("protein", "ACGU")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (">x\nacgu\n", "lower case, read as upper case"),
        (">x\nACGT\n", "T, read as U"),
        (">x\nACGU\r\n", None),
        ("\ufeff>x\nACGU\n", None),
        (">x\nACGU", None),
        (">x A <B>\nACGU  \n\n\n", None),
    ],
)
def test_accepted_spellings_are_one_key(tmp_path: Path, text: str, note: str | None) -> None:
    found = read_fasta(write(tmp_path / "a.fasta", text), "rna")
    assert found.records == [record_of("rna", "x", "ACGU")]
    assert list(found.notes) == ([note] if note else [])


def test_gzip_is_known_by_its_magic_not_its_name(tmp_path: Path) -> None:
    found = read_fasta(write(tmp_path / "a.fasta", gzip.compress(b">x\nACGU\n")), "rna")
    assert found.records[0].sequence == "ACGU"


def test_equal_sequences_share_a_key_and_keep_their_ids(tmp_path: Path) -> None:
    found = read_fasta(write(tmp_path / "a.fasta", ">x\nACGT\n>y\nacgu\n>x\nACGU\n"), "rna")
    assert [r.id for r in found.records] == ["x", "y"]
    assert len({r.key for r in found.records}) == 1
    assert found.notes["repeated id with the same sequence, kept once"] == 1


def test_protein_star_is_cut_and_unknown_letters_are_counted(tmp_path: Path) -> None:
    found = read_fasta(write(tmp_path / "a.fasta", ">x\nMKX*\n>y\nACGT\n"), "protein")
    assert found.records[0].sequence == "MKX"
    assert found.notes["trailing '*', cut"] == 1
    assert found.notes["unknown or ambiguous letters, kept as unknown"] == 1
    assert any("nucleotide sequence given as a protein" in note for note in found.notes)


def test_all_errors_of_a_file_come_together_with_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fasta", ">x\nAC-G\n>\nAC\n>y\n>z\nACGU\n")
    with pytest.raises(InputError) as caught:
        read_fasta(path, "rna")
    assert [line.split(":")[1] for line in caught.value.lines] == ["1", "3", "5"]
    skipped = read_fasta(path, "rna", "skip")
    assert [r.id for r in skipped.records] == ["z"]
    assert len(skipped.skipped) == 3


def test_an_id_with_two_sequences_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fasta", ">x\nACGU\n>y\nGG\n>x\nCC\n")
    with pytest.raises(InputError, match=r"a\.fasta:5: .*line 1 .*\(record x\)"):
        read_fasta(path, "rna")
    assert [r.id for r in read_fasta(path, "rna", "skip").records] == ["y"]


def test_the_readmes_python_reads_a_sequence_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embed.run import RunOptions, run

    write(tmp_path / "seqs.fasta", ">s1\nGGAUCACGU\n")
    run(RunOptions("rna", tmp_path / "seqs.fasta", tmp_path / "cache" / "seqs", "profile", quiet=True))
    match = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert match is not None
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(match[1], "README.md", "exec"), found)
    assert found["rows"].shape == (9, 57)


@given(st.text(CERTAIN["rna"] + "T" + "".join(AMBIGUOUS["rna"]), min_size=1))
def test_normalising_is_idempotent_and_blind_to_case(sequence: str) -> None:
    once = normalise("rna", sequence)
    assert normalise("rna", once) == once == normalise("rna", sequence.lower())
    assert len(once) == len(sequence)


def test_id_table_round_trip_and_conflict(tmp_path: Path) -> None:
    records = [record_of("rna", i, s) for i, s in [("a/../b", "ACGU"), ("x", "GG"), ("é", "GG")]]
    publish_table(tmp_path, "rna", records)
    publish_table(tmp_path, "rna", records)
    files = list((tmp_path / "records").iterdir())
    assert len(files) == 1, "the same records are published once"
    assert {i: e.key for i, e in read_table(tmp_path, "rna").items()} == {r.id: r.key for r in records}
    with pytest.raises(Conflict, match="already stands for another sequence"):
        publish_table(tmp_path, "rna", [record_of("rna", "é", "CC")])
    files[0].write_bytes(files[0].read_bytes().replace(b"\t4\t", b"\t5\t"))
    with pytest.raises(CacheCorrupt):
        read_table(tmp_path, "rna")
