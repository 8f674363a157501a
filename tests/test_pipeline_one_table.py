"""One table of sequences and labels is a dataset: ids are made of the sequences."""

from __future__ import annotations

from pathlib import Path

from conftest import Program

from crossllm.cache import key_of
from crossllm.pipeline.data.dataset import load_dataset

TABLE = """rna_sequence,smiles,pKd,assay
ACGUACGUAC,CCO,7.25,x
acgtacgtac,OCC,7.75,x
GGGGCCCC,c1ccccc1,5.5,y
GGGGCCCC,CCO,6,y
"""


def test_a_table_of_sequences_is_imported(program: Program, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    command = ("crossllm", "data", "import", "--table", "t.csv", "--a", "rna=rna_sequence", "--b", "molecule=smiles")
    done = program(*command, "--label-column", "pKd", "--cache", "c")
    assert done.returncode == 0, done.stderr
    assert "3 pairs, regression; 2 rna ids of 2 distinct sequences, 2 molecule ids of 2" in done.stdout
    assert "note: t.csv: 1 row: repeated affinity, averaged" in done.stderr
    dataset, _ = load_dataset(tmp_path / "c")
    key = key_of("rna", "ACGUACGUAC")
    assert dataset.a_ids[0] == f"rna-{key.hex()[:8]}"
    assert (dataset.a_keys[0], dataset.labels.tolist()) == (key, [7.5, 5.5, 6])
    assert dataset.extra == {"assay": ["x", "y", "y"]}


def test_bad_sequences_are_their_rows(program: Program, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE + "ACXZ,CCO,5,z\nACGU,C1CC,5,z\n,CCO,5,z\n")
    command = ("crossllm", "data", "import", "--table", "t.csv", "--a", "rna=rna_sequence", "--b", "molecule=smiles")
    done = program(*command, "--label-column", "pKd", "--cache", "c")
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert len(said) == 3
    assert said[0].startswith("error: t.csv:6: rna_sequence: letter 'Z' at nucleotide 4 of 4")
    assert said[1].startswith("error: t.csv:7: smiles: RDKit: unclosed ring")
    assert said[2].startswith("error: t.csv:8: rna_sequence: a record without a sequence")
    assert not (tmp_path / "c").exists()
    done = program(*command, "--label-column", "pKd", "--cache", "c", "--on-bad", "skip")
    assert done.returncode == 0, done.stderr
    assert "note: t.csv: 3 bad rows left out" in done.stderr
    for more, say in (
        (("--pairs", "t.csv"), "--pairs: is the table of ids, --table one that holds the sequences itself; leave one"),
        (("--b", "rna=rna_sequence"), "is the column of --a; name two columns"),
        (("--b", "molecule=nothing"), "no column nothing in the header"),
    ):
        flags = command[: command.index("--b")] if more[0] == "--b" else command
        done = program(*flags, "--label-column", "pKd", "--cache", "d", *more)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert say in done.stderr
