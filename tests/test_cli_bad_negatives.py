"""Bad input of `crossllm data negatives` and `data import --all-positive`: exit code 2, one line, nothing written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import Program

_RANDOM = random.Random(0)
RNA = "".join(f">r{n}\n{''.join(_RANDOM.choices('ACGU', k=40))}\n" for n in range(6))
PROTEIN = "".join(f">p{n}\n{''.join(_RANDOM.choices('ACDEFGHIKLMNPQRSTVWY', k=40))}\n" for n in range(6))
PAIRS = "a_id\tb_id\tlabel\tfold\tnamed\tmany\tnone\tword\tone\ttests\n" + "".join(
    f"r{n}\tp{n}\t1\t{n % 2}\t{'ab'[n % 2]}\t{n}\t-\ttraining set\t7\ttest\n" for n in range(6)
)


@pytest.fixture
def sets(tmp_path: Path, program: Program) -> Path:
    """Positives alone, negatives alone, affinities; no embeddings are needed."""
    (tmp_path / "rna.fasta").write_text(RNA)
    (tmp_path / "protein.fasta").write_text(PROTEIN)
    zero = PAIRS.replace("\t1\t", "\t0\t")
    affinities = "a_id\tb_id\tlabel\n" + "".join(f"r{n}\tp{n}\t{n}.5\n" for n in range(6))
    for name, text in (("mine", PAIRS), ("zero", zero), ("affinities", affinities)):
        (tmp_path / f"{name}.tsv").write_text(text)
        done = program("crossllm", "data", "import", "--a", "rna=rna.fasta", "--b", "protein=protein.fasta", "--pairs",
                       f"{name}.tsv", "--cache", name)  # fmt: skip
        assert done.returncode == 0, done.stderr
    (tmp_path / "unlabelled.tsv").write_text("a_id\tb_id\nr0\tp0\nr1\tp1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--cache affinities --out new", "holds affinities"),
        ("--cache zero --out new", "none of its 6 pairs is positive"),
        ("--cache nowhere --out new", "no dataset here"),
        ("--cache mine --out mine", "is the dataset itself"),
        ("--cache mine", "--out"),
        ("--out new", "--cache"),
        ("--cache mine --out new --per-positive 0", "--per-positive 0: a whole number from 1"),
        ("--cache mine --out new --per-positive -1", "--per-positive -1: a whole number from 1"),
        ("--cache mine --out new --per-positive 1001", "--per-positive 1001: a whole number from 1 to 1000"),
        ("--cache mine --out new --per-positive 1.5", "--per-positive"),
        ("--cache mine --out new --near 90", "--near 90: an identity from 0.5 to 1"),
        ("--cache mine --out new --near 0.2", "--near 0.2: an identity from 0.5 to 1"),
        ("--cache mine --out new --near nan", "--near nan: an identity"),
        ("--cache mine --out new --near high", "--near"),
        ("--cache mine --out new --match some", "--match"),
        ("--cache mine --out new --match none --hard", "--hard: keeps the degrees"),
        ("--cache mine --out new --folds 1", "--folds 1: 2 or more parts"),
        ("--cache mine --out new --folds 0", "--folds 0: 2 or more parts"),
        ("--cache mine --out new --folds 7", "no more than there are distinct sequence pairs among the positives (6)"),
        ("--cache mine --out new --folds 2 --fold-column fold", "leave one of the two out"),
        ("--cache mine --out new --fold-column nothing", "no column 'nothing' in pairs.tsv"),
        ("--cache mine --out new --fold-column none", "no positive has a fold"),
        ("--cache mine --out new --fold-column one", "1 distinct values"),
        ("--cache mine --out new --fold-column word", "reads like a part of one split"),
        ("--cache mine --out new --fold-column tests", "no pair is 'train'"),
        ("--cache mine --out new --fold-column many", "only 0 of 6 negatives can be drawn"),
        ("--cache mine --out new --seed -1", "--seed"),
        ("--cache mine --out s3://bucket/new", "s3://bucket/new"),
    ],
)
def test_bad_input_of_negatives(sets: Path, program: Program, arguments: str, said: str) -> None:
    done = program("crossllm", "data", "negatives", *arguments.split())
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert said in line
    assert done.stdout == ""
    assert not (sets / "new").exists()


def test_another_dataset_is_never_written_over(sets: Path, program: Program) -> None:
    before = (sets / "zero" / "dataset.toml").read_bytes()
    done = program("crossllm", "data", "negatives", "--cache", "mine", "--out", "zero", "--folds", "2")
    assert done.returncode not in (0, 2)
    assert "zero: holds another dataset, or files that are no part of this one; name another --out" in done.stderr
    assert (sets / "zero" / "dataset.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--pairs unlabelled.tsv", "where every row is a known interaction, say --all-positive"),
        ("--pairs mine.tsv --all-positive", "has a column label; leave --all-positive out"),
        ("--pairs unlabelled.tsv --all-positive --task regression", "--all-positive: says that there are no labels"),
        ("--pairs unlabelled.tsv --all-positive --missing -1", "--all-positive: says that there are no labels"),
        ("--pairs unlabelled.tsv --all-positive --label-column y", "--all-positive: says that there are no labels"),
        ("--pairs unlabelled.tsv --all-positive --a-column x", "no column x in the header"),
    ],
)
def test_bad_input_of_all_positive(sets: Path, program: Program, arguments: str, said: str) -> None:
    done = program("crossllm", "data", "import", "--a", "rna=rna.fasta", "--b", "protein=protein.fasta", "--cache",
                   "new", *arguments.split())  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not (sets / "new").exists()


def test_positives_alone_are_imported_and_train_says_what_they_lack(sets: Path, program: Program) -> None:
    done = program("crossllm", "data", "import", "--a", "rna=rna.fasta", "--b", "protein=protein.fasta", "--cache",
                   "new", "--pairs", "unlabelled.tsv", "--all-positive")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 pairs (2 positive), classification")
    assert (sets / "new" / "pairs.tsv").read_text() == "a_id\tb_id\tlabel\nr0\tp0\t1\nr1\tp1\t1\n"
    for modality in ("rna", "protein"):
        program("embed", "run", "--modality", modality, "--input", f"new/{modality}.fasta", "--encoder", "profile")
    trained = program("train", "--cache", "new")
    assert trained.returncode == 2
    assert "`crossllm data negatives` draws negatives" in trained.stderr
