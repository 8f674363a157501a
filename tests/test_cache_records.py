from __future__ import annotations

import errno
import gzip
import hashlib
import multiprocessing
import re
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from crossllm.cache import Conflict, InputError, Record, key_of, record_of
from crossllm.cache.errors import SAME, CacheCorrupt
from crossllm.cache.records.fasta import read_fasta
from crossllm.cache.records.id_list import IdList
from crossllm.cache.records.id_table import new_rows, publish_table, read_table
from crossllm.cache.records.keys import Keys
from crossllm.cache.records.modality import AMBIGUOUS, CERTAIN, OnBad
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import normalise
from crossllm.cache.records.record_list import RecordList
from crossllm.cache.records.validation import validated_records


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
    from crossllm.embed.run.run import RunOptions, run

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


def plain_settle(rows: list[tuple[int, Record]], on_bad: str) -> tuple[list[Record], int, list[tuple[int, str]]]:
    """The rule of repeated ids with dicts of plain records: what is kept, what was merged, what is wrong."""
    first: dict[str, tuple[int, Record]] = {}
    kept: list[Record] = []
    merged, wrong, ambiguous = 0, list[tuple[int, str]](), dict[str, int]()
    for line, record in rows:
        at, before = first.setdefault(record.id, (line, record))
        if at == line:
            kept.append(record)
        elif before.key == record.key:
            merged += 1
        else:
            wrong.append((line, f"this id stands on line {at} with another sequence; rename one of the two"))
            ambiguous[record.id] = at
    if on_bad == "skip":
        wrong += [(at, "this id has another sequence further down; rename one") for at in ambiguous.values()]
        kept = [record for record in kept if record.id not in ambiguous]
    return kept, merged, sorted(wrong)


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize("in_memory", [8 << 20, 100], ids=["memory", "file"])
def test_the_compact_list_is_the_plain_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, on_bad: OnBad, in_memory: int
) -> None:
    """Random files with repeated ids, equal sequences and bad records, against lists and dicts of records."""
    monkeypatch.setattr("crossllm.cache.records.record_list.IN_MEMORY", in_memory)
    monkeypatch.setattr("crossllm.cache.records.record_list._AT_ONCE", 64)
    outcomes: Counter[str] = Counter()
    for size in [1, 2, *rng.integers(3, 200, 40).tolist()]:
        ids = rng.integers(0, int(rng.choice([2, 20, 10_000])), size)
        few = rng.random() < 0.5
        rows = [
            (3 * n + 1, record_of("rna", f"é{i}", "ACGU"[: 1 + int(i) % 4] * (1 if few else int(rng.integers(1, 4)))))
            for n, i in enumerate(ids)
        ]
        kept, merged, wrong = plain_settle(rows, on_bad)
        notes: Counter[str] = Counter()
        if not kept or (wrong and on_bad == "error"):
            outcomes["refused"] += 1
            with pytest.raises(InputError) as caught:
                validated_records(Path("a.fasta"), "rna", iter(rows), notes, [], on_bad)
            said = [line.split(": ", 1)[1].split(" (record")[0] for line in caught.value.lines]
            told = wrong if len(wrong) <= SAME else wrong[:1]  # all are of one fault
            assert said == [what.partition(";")[0] for _, what in told] or on_bad == "skip"
            continue
        found = validated_records(Path("a.fasta"), "rna", iter(rows), notes, [], on_bad)
        outcomes["read"] += 1
        assert notes.total() == merged
        assert [(problem.line, problem.what) for problem in found.skipped] == wrong
        listed = found.records
        assert isinstance(listed, RecordList)
        assert list(listed) == kept
        assert listed == kept
        assert [listed[n] for n in range(len(kept))] == kept
        assert listed[-1] == kept[-1]
        assert list(listed[1::2]) == kept[1::2]
        assert listed.lengths.tolist() == [record.length for record in kept]
        assert [key.tobytes() for key in listed.keys] == [record.key for record in kept]
        chosen = np.flatnonzero(rng.random(len(kept)) < 0.5)
        assert list(listed.take(chosen)) == [kept[n] for n in chosen]
        assert list(listed.take(chosen)[::2]) == [kept[n] for n in chosen][::2]
        first: dict[bytes, Record] = {}
        for record in kept:
            first.setdefault(record.key, record)
        distinct = found.distinct()
        assert list(distinct.items()) == list(first.items())
        assert distinct.lengths.tolist() == [record.length for record in first.values()]
        assert [distinct.find(key) for key in first] == list(range(len(first)))
        assert bytes(32) not in distinct
    assert outcomes["read"] > 5
    assert outcomes["refused"] > 3


def test_ids_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossllm.cache.records.id_list.hash", lambda _: 7, raising=False)
    ids = IdList()
    for id_ in ("a", "b", "a", "c", "b", "a"):
        ids.append(id_)
    assert sorted(ids.repeats()) == [(2, 0), (4, 1), (5, 0)]
    assert [ids.find(id_) for id_ in ("a", "b", "c", "d")] == [0, 1, 3, -1]


@pytest.mark.parametrize("held", [0, 1, 2, 500])
def test_many_keys_are_found_like_one(rng: np.random.Generator, held: int) -> None:
    """Keys that share their first eight bytes, keys that stand twice, keys that are not there."""
    digest = rng.integers(0, 256, (held, 32), np.uint8)
    if held:
        digest[:, :8] = digest[rng.integers(0, max(1, held // 3), held), :8]
        digest[held // 2 :: 5] = digest[0]
    keys = Keys(digest)
    asked = np.concatenate([digest, rng.integers(0, 256, (20, 32), np.uint8)])
    asked = np.concatenate([asked, asked ^ np.eye(1, 32, 31, dtype=np.uint8)])
    plain = {row.tobytes(): n for n, row in reversed(list(enumerate(digest)))}
    expected = [plain.get(row.tobytes(), -1) for row in asked]
    assert keys.find_many(asked).tolist() == expected
    assert keys.find_many([row.tobytes() for row in asked]).tolist() == expected
    assert [keys.find(row.tobytes()) for row in asked] == expected
    assert keys.firsts.tolist() == sorted(plain.values())


def test_a_table_larger_than_a_piece_and_one_in_two_files(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossllm.cache.records.id_table._AT_ONCE", 300)
    records = [record_of("rna", f"r{n}", "".join(rng.choice(list("ACGU"), 9))) for n in range(100)]
    publish_table(tmp_path, "rna", records[:60])
    publish_table(tmp_path, "rna", records)
    table = read_table(tmp_path, "rna")
    assert len(list((tmp_path / "records").iterdir())) == 2
    assert table == {r.id: (r.key, r.length) for r in records}
    assert set(table) == {r.id for r in records}
    assert len(table) == 100
    assert "nobody" not in table
    assert not new_rows(tmp_path, "rna", records).any()
    # As two writers of the same instant leave it: the same ids in both files.
    other = tmp_path / "other"
    publish_table(other, "rna", records[30:])
    for path in (other / "records").iterdir():
        (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    assert read_table(tmp_path, "rna") == table
    assert len(read_table(tmp_path, "rna")) == 100


def test_parent_and_child_read_the_same_records_at_once(rng: np.random.Generator) -> None:
    """What is beyond memory lies in a file, whose offset the two share."""
    letters = np.frombuffer(b"ACGU", np.uint8)
    found = [record_of("rna", f"s{n}", letters[rng.integers(0, 4, 6000)].tobytes().decode()) for n in range(2000)]
    records = RecordList.of(found)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), _inherit, (records,)) as pool:
        elsewhere = pool.submit(_wrong, [record.key for record in found])
        here = [record for record, expected in zip(records, found, strict=True) if record != expected]
        assert not here
        assert elsewhere.result() == 0


_INHERITED: list[RecordList] = []


def _inherit(records: RecordList) -> None:
    _INHERITED.append(records)


def _wrong(keys: list[bytes]) -> int:
    """Of the records that this process has inherited, how many are not what their keys say."""
    again = (record_of("rna", record.id, record.sequence).key for record in _INHERITED[0])
    return sum(key != found for key, found in zip(keys, again, strict=True))


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: Full())
    with pytest.raises(OSError, match=r"No space left.*\(TMPDIR\)"):
        RecordList.of(record_of("rna", f"s{n}", "ACGU" * (1 << 18)) for n in range(9))


def test_many_tables_are_read_with_one_look_for_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(20):
        publish_table(tmp_path, "rna", [record_of("rna", f"s{n}", "ACGU" * (n + 1))])
    looks = []
    repeats = IdList.repeats
    monkeypatch.setattr(IdList, "repeats", lambda self: (looks.append(1), repeats(self))[1])
    table = read_table(tmp_path, "rna")
    assert len(looks) == 1
    assert sorted(table.values()) == sorted(entry for _, entry in table.items())


@pytest.mark.parametrize("odd", ["\xad", "\u200b", "\u2060"])
def test_a_character_that_nobody_sees_in_a_sequence_is_removed_by_what_is_said(odd: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text(f">a\nAC{odd}GU\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"is a character that nobody sees \(record a\); remove it") as caught:
        read_records(tmp_path / "FILE", "rna")
    cure = str(caught.value).split("`")[1]
    subprocess.run(cure, shell=True, cwd=tmp_path, check=True)
    assert [r.sequence for r in read_records(tmp_path / "NEW", "rna").records] == ["ACGU"]
