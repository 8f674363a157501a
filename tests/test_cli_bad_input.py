"""Bad input: exit code 2, one line a bad record that says what and where, no traceback, no file left behind."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program

from crossllm.cache.console import runner
from crossllm.cache.console.messages import show_errors
from crossllm.cache.errors import Problem, bad_lines
from crossllm.pipeline.cli import crossllm


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


RNA_PROFILE = ("--modality", "rna", "--encoder", "profile")
GOOD = b">x\nACGU\n"
_DAMAGED = bytearray(gzip.compress(GOOD * 50))
_DAMAGED[-6] ^= 1  # the stored CRC

# name → (how the file is made, lines of error, what the first one must say)
BAD_FASTA: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda path: None, 1, "no such file"),
    "folder": (lambda path: path.mkdir(), 1, "is a folder"),
    "fifo": (_fifo, 1, "not a regular file"),
    "empty": (_bytes(b""), 1, "holds no records"),
    "white space": (_bytes(b"\n \n\t\n"), 1, "holds no records"),
    "gz cut short": (_bytes(gzip.compress(GOOD * 50)[:-9]), 1, "gzip file ends early"),
    "gz bad crc": (_bytes(bytes(_DAMAGED)), 1, "gzip file is damaged"),
    "gz bomb": (_bytes(gzip.compress(b">x\n" + (b"A" * 999 + b"\n") * (100 << 10), 9)), 1, "fold when unpacked"),
    "zip": (_bytes(b"PK\x03\x04rest"), 1, "zip archive"),
    "xz": (_bytes(b"\xfd7zXZ\x00rest"), 1, "xz file"),
    "utf-16": (_bytes(">x\nACGU\n".encode("utf-16")), 1, "UTF-16"),
    "lone cr": (_bytes(b">x\rACGU\r"), 1, "carriage return inside"),
    "nul": (_bytes(b">x\nAC\x00GU\n"), 1, "control character 0x00"),
    "escape in header": (_bytes(b">x\x1b[2J\nACGU\n"), 1, "control character 0x1b"),
    "not utf-8": (_bytes(b">x\xe9\nACGU\n"), 1, "0xe9 at column 3 is not UTF-8"),
    "text before first header": (_bytes(b"junk\n>x\nACGU\n"), 1, "text before the first '>'"),
    "no id": (_bytes(b">\nACGU\n"), 1, "header without an id"),
    "id of spaces": (_bytes(b">   \nACGU\n"), 1, "header without an id"),
    "id twice, two sequences": (_bytes(b">x\nACGU\n>x\nGG\n"), 1, "stands on line 1 with another sequence"),
    "empty record first": (_bytes(b">x\n>y\nACGU\n"), 1, "without a sequence (record x)"),
    "empty record last": (_bytes(b">y\nACGU\n>x\n"), 1, "without a sequence (record x)"),
    "header inside a sequence": (_bytes(b">x\nACGU>y\nGG\n"), 2, "'>' inside a sequence at column 5"),
    "semicolon comment": (_bytes(b">x\n;note\nACGU\n"), 1, "';' comment"),
    "gap": (_bytes(b">x\nAC-GU\n"), 1, "'-' at nucleotide 3 of 5 is an alignment gap"),
    "dot": (_bytes(b">x\nAC.GU\n"), 1, "'.' at nucleotide 3 of 5 is an alignment gap"),
    "star inside": (_bytes(b">x\nAC*GU\n"), 1, "stop inside the sequence"),
    "digits": (_bytes(b">x\n1 ACGU\n"), 1, "remove spaces and numbering"),
    "protein given as rna": (_bytes(b">x\nMKVLE\n"), 1, "is this a protein?"),
    "letter outside ascii": (_bytes(">x\nACGſ\n".encode()), 1, "'ſ' at nucleotide 4"),
    "two bad records": (_bytes(b">x\nAC-U\n>y\n>z\nGG\n"), 2, "alignment gap"),
}


def assert_refused(done: object, lines: int, say: str) -> None:
    assert done.returncode == 2, done.stderr  # type: ignore[attr-defined]
    errors = done.stderr.splitlines()  # type: ignore[attr-defined]
    assert len(errors) == lines, done.stderr  # type: ignore[attr-defined]
    assert all(line.startswith("error: ") for line in errors)
    assert say in errors[0], errors[0]


@pytest.mark.parametrize("name", BAD_FASTA)
def test_bad_fasta(name: str, program: Program, tmp_path: Path) -> None:
    make, lines, say = BAD_FASTA[name]
    make(tmp_path / "bad.fasta")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = program("embed", "run", "--modality", "rna", "--input", "bad.fasta", "--encoder", "profile")
    assert_refused(done, lines, say)
    assert "bad.fasta" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "a file was left behind"


def test_bad_fasta_with_skip_goes_on_counts_and_lists(program: Program, tmp_path: Path) -> None:
    (tmp_path / "bad.fasta").write_text(">x\nAC-U\n>y\n>z\nGG\n")
    done = program(
        "embed", "run", "--modality", "rna", "--input", "bad.fasta", "--encoder", "profile", "--on-bad", "skip"
    )
    assert done.returncode == 0
    assert "1 record, 1 distinct sequences" in done.stdout
    assert done.stderr.count("skipped: ") == 2
    assert "2 bad records left out" in done.stderr


def test_one_fault_of_many_records_is_one_line(program: Program, tmp_path: Path) -> None:
    (tmp_path / "bad.fasta").write_text("".join(f">x{n}\nA-\n" for n in range(50)))
    done = program("embed", "run", "--modality", "rna", "--input", "bad.fasta", "--encoder", "profile")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: bad.fasta:1: letter '-' at nucleotide 2 of 2")
    assert line.endswith("(50 such, lines 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, …)")


def test_only_the_first_twenty_faults_are_shown_then_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    show_errors([f"fault {n}" for n in range(50)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert "30 more" in lines[-1]


def test_faults_of_one_kind_are_one_line_and_hide_no_other() -> None:
    odd = Problem(Path("f"), 7, "letter '*' at residue 3 of 9 is a stop; cut it", "x")
    gaps = [Problem(Path("f"), n, f"letter '-' at residue {n} of 9 is a gap; remove it", f"r{n}") for n in range(1, 40)]
    other = [Problem(Path("g"), 0, f"type int{n} where floats are taken; save it", f"a{n}") for n in range(5)]
    gap, stop, kind = bad_lines([*gaps[:5], odd, *gaps[5:], *other])
    assert gap.startswith("f:1: letter '-' at residue 1 of 9 is a gap (record r1); remove it (39 such, lines 1, 2, 3, ")
    assert stop == str(odd)
    assert kind.endswith("(5 such, records 'a0', 'a1', 'a2', 'a3', 'a4')")
    assert bad_lines(gaps[:4]) == [*map(str, gaps[:4])]


def test_hostile_ids_are_data_never_paths(program: Program, tmp_path: Path) -> None:
    ids = ["../../escape", "/etc/passwd", "a\\b", "..", "é" * 200, "x" * 10000, "=cmd()"]
    (tmp_path / "odd.fasta").write_text("".join(f">{i}\n{'ACGU' * (n + 1)}\n" for n, i in enumerate(ids)))
    done = program("embed", "run", "--modality", "rna", "--input", "odd.fasta", "--encoder", "profile")
    assert done.returncode == 0, done.stderr
    from crossllm.cache.records.id_table import read_table

    assert set(read_table(tmp_path / "cache" / "odd", "rna")) == set(ids)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "odd.fasta"]


def test_a_bad_header_costs_its_own_record_only(program: Program, tmp_path: Path) -> None:
    (tmp_path / "bad.fasta").write_bytes(b">a\nACGU\n>b\xe9\nGGGG\n>c\nCC\n")
    done = program(
        "embed", "run", "--modality", "rna", "--input", "bad.fasta", "--encoder", "profile", "--on-bad", "skip"
    )
    assert done.returncode == 0
    from crossllm.cache.records.id_table import read_table

    found = read_table(tmp_path / "cache" / "bad", "rna")
    assert {i: e.length for i, e in found.items()} == {"a": 4, "c": 2}


def test_all_bad_is_an_error_even_with_skip(program: Program, tmp_path: Path) -> None:
    (tmp_path / "bad.fasta").write_text(">x\nAC\n>x\nGG\n")
    done = program(
        "embed", "run", "--modality", "rna", "--input", "bad.fasta", "--encoder", "profile", "--on-bad", "skip"
    )
    assert_refused(done, 3, "bad.fasta:1: this id has another sequence further down (record x)")
    assert "holds no records, 2 bad ones were left out" in done.stderr


def test_import_never_writes_over_a_file_of_the_users(program: Program, tmp_path: Path) -> None:
    (tmp_path / "rna.fasta").write_text(">r1 mine\nACGU\n>r2\nGG\n")
    (tmp_path / "p.fasta").write_text(">p1\nMK\n")
    (tmp_path / "pairs.tsv").write_text("a_id\tb_id\tlabel\nr1\tp1\t1\n")
    sides = ("--a", "rna=rna.fasta", "--b", "protein=p.fasta")
    done = program("crossllm", "data", "import", *sides, "--pairs", "pairs.tsv", "--cache", ".")
    assert done.returncode == 5
    assert (tmp_path / "rna.fasta").read_text().startswith(">r1 mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.fasta", "pairs.tsv", "rna.fasta"]


def test_lost_notes_stop_nothing(program: Program, tmp_path: Path) -> None:
    (tmp_path / "good.fasta").write_text(">x\nacgt\n")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from crossllm.embed.cli import main; main()", "run", "--modality", "rna",
               "--encoder", "profile", "--input", "good.fasta"]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=write, text=True, cwd=tmp_path)
    os.close(write)
    assert done.returncode == 0
    assert "embedded 1" in done.stdout


HEADER = "a_id\tb_id\tlabel\n"
BAD_PAIRS: dict[str, tuple[str, int, str]] = {
    "empty": ("", 1, "is empty"),
    "no header": ("r1\tp1\t1\n", 1, "no column a_id, b_id, label in the header"),
    "header only": (HEADER, 1, "no pairs are left"),
    "too few columns": (HEADER + "r1\tp1\n", 1, "2 columns, the header has 3"),
    "csv rows under a tsv header": (HEADER + "r1,p1,1\n", 1, "1 column, the header has 3"),
    "unknown id": (HEADER + "nobody\tp1\t1\n", 1, "a_id 'nobody' has no record"),
    "other label": (
        HEADER + "r1\tp1\t1\nr2\tp1\t1\nr1\tp1\t0\n",
        1,
        "pairs.tsv:4: this pair has the other label on line 2",
    ),
    "label is a word": (HEADER + "r1\tp1\tyes\n", 1, "label 'yes' is no finite number"),
    "label is nan": (HEADER + "r1\tp1\tnan\n", 1, "label 'nan' is no finite number"),
    "label is infinite": (HEADER + "r1\tp1\t1e400\n", 1, "is no finite number"),
    "label with an underscore": (HEADER + "r1\tp1\t1_0\n", 1, "label '1_0' is no finite number"),
    "empty label": (
        HEADER + "r1\tp1\t1\nr1\tp1\t\n",
        1,
        "label '' is no finite number; fill it in, or leave such rows",
    ),
    "printed minus": (HEADER + "r1\tp1\t\u22127.5\n", 1, "a minus sign as it is printed (0x2212)? write -7.5"),
    "open quote": (HEADER + 'r1\t"p1\t1\n', 1, "quote is not closed"),
    "column twice": ("a_id\tb_id\tlabel\tlabel\nr1\tp1\t1\t1\n", 1, "stands twice"),
    "nul": (HEADER + "r1\tp1\x00\t1\n", 1, "control character"),
    "two bad rows": (HEADER + "r1\tp9\t1\nr9\tp1\t1\n", 2, "b_id 'p9' has no record"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs(name: str, program: Program, tmp_path: Path) -> None:
    text, lines, say = BAD_PAIRS[name]
    (tmp_path / "rna.fa").write_text(">r1\nACGU\n>r2\nGG\n")
    (tmp_path / "protein.fa").write_text(">p1\nMK\n")
    (tmp_path / "pairs.tsv").write_text(text)
    sides = ("--a", "rna=rna.fa", "--b", "protein=protein.fa")
    done = program("crossllm", "data", "import", *sides, "--pairs", "pairs.tsv", "--cache", "c")
    assert_refused(done, lines, say)
    assert "pairs.tsv" in done.stderr
    assert not (tmp_path / "c").exists()


BAD_USAGE: dict[str, tuple[str, str]] = {
    "no command": ("crossllm nothing", "No such command"),
    "noise is nan": ("train --cache nowhere --noise nan", "--noise: nan is out of range"),
    "rate is nan": ("train --cache nowhere --lr nan", "--lr: nan is out of range"),
    "device without numbers": ("train --cache nowhere --device meta", "--device meta"),
    "name too long": ("embed run --modality rna --encoder profile --input " + "x" * 300, "name too long"),
    "missing option": ("embed run --modality rna", "Missing option '--input'"),
    "unknown modality": ("embed run --modality dna --input x", "'dna' is not one of"),
    "unknown encoder": ("embed run --modality rna --input good.fasta --encoder esm9", "is not an encoder for rna"),
    "side without a file": ("crossllm data import --a rna --b protein=x --pairs y --cache c", "is not MODALITY=FILE"),
    "unknown side": ("crossllm data import --a dna=x --b protein=x --pairs y --cache c", "modality 'dna' is not known"),
    "no cache": ("crossllm cache info --cache nowhere", "no cache here"),
    "no dataset": ("train --cache nowhere", "no dataset here"),
    "bad recipe flag": ("train --cache nowhere --recipe c=profile", "is not a=NAME or b=NAME"),
    "bad device": ("train --cache nowhere --device warp", "--device warp"),
    "too few folds": ("train --cache nowhere --folds 1", "--folds"),
    "id column of FASTA": (
        "embed run --modality rna --input good.fasta --id-column ID",
        "--id-column is about a molecule file, this is rna; leave it out",
    ),
    "SMILES first of FASTA": (
        "crossllm data import --a rna=good.fasta --b protein=good.fasta --pairs y --cache c --smiles-first",
        "--smiles-first is about a molecule file, this is protein and rna",
    ),
    "nucleotides of an RNA": (
        "embed run --modality rna --input good.fasta --allow-nucleotides",
        "about a protein file",
    ),
    "pull of nothing": ("embed pull esm9", "is not an encoder"),
    "weights for profile": (
        "embed run --modality rna --input good.fasta --encoder profile --weights w",
        "has no weights",
    ),
}


@pytest.mark.parametrize("name", BAD_USAGE)
def test_bad_usage_is_one_line(name: str, program: Program, tmp_path: Path) -> None:
    command, say = BAD_USAGE[name]
    (tmp_path / "good.fasta").write_bytes(GOOD)
    done = program(*command.split())
    assert_refused(done, 1, say)
    assert [p.name for p in tmp_path.iterdir()] == ["good.fasta"]


EMPTY_PATHS = {  # option or argument → the rest of its command
    "embed run --input": "embed run --modality rna",
    "embed run --cache": "embed run --modality rna --input x",
    "embed run --weights": "embed run --modality rna --input x",
    "embed pull --to": "embed pull rnabert",
    "train --cache": "train",
    "train --out": "train --cache c",
    "train --config": "train --cache c",
    "data demo --cache": "data demo",
    "data import --cache": "data import --a rna=x --b protein=y --pairs z",
    "data import --pairs": "data import --a rna=x --b protein=y --cache c",
    "cache info --cache": "cache info",
    "cache merge SOURCES...": "cache merge --cache c",
    "cache import --input": "cache import --modality rna --fasta x --cache c",
    "cache import --fasta": "cache import --modality rna --input x --cache c",
    "cache export --output": "cache export --modality rna --format csv --cache c",
}


@pytest.mark.parametrize("name", EMPTY_PATHS)
def test_an_empty_path_is_no_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    option = name.split()[-1]
    flag = [option] if option.startswith("--") else []
    assert runner._run(crossllm, [*EMPTY_PATHS[name].split(), *flag, ""]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    command = " ".join(EMPTY_PATHS[name].split()[: 1 if name.startswith("train") else 2])
    short = {"--input": "-i", "--out": "-o", "--output": "-o", "--cache": "-c"}.get(option)
    shown = f"'{option}' / '{short}'" if short else f"'{option}'"
    assert line == (
        f"error: Invalid value for {shown}: a path is expected, this one is empty; write '.' for the folder at hand. "
        f"See `crossllm {command} --help`."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_closed_pipe_is_success() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from crossllm.embed.cli import main; main()", "models"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_message_ends_before_the_next_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, ["cache", "status", "-i", "s3://b/x", "-c", "x", "--num-shards", "2"]) == 2
    assert "copy the files here. See `crossllm cache status --help`." in capsys.readouterr().err
