"""The flags that say how records are read are in every command that reads them, and reach the reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossllm.cache.console import runner
from crossllm.cache.records.id_table import read_table
from crossllm.pipeline.cli import crossllm

TABLE = "ref,id,smiles,parent\nx,1,C,CC\ny,2,CCC,CCCC\n"
ASKED = ["--id-column", "ref", "--smiles-column", "parent"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.csv").write_text(TABLE)
    (tmp_path / "p.fa").write_text(">p0\nACGUACGUACGU\n>p1\nGGGGCCCCAAAA\n")
    (tmp_path / "pairs.tsv").write_text("a_id\tb_id\tlabel\np0\tx\t1\np1\ty\t0\n")
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "x.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "rows" / "y.npy", np.ones((4, 3), np.float32))
    return tmp_path


COMMANDS = {
    "embed run": "embed run --modality molecule --input m.csv --encoder profile --cache c --quiet",
    "cache import": "cache import --modality molecule --input rows --fasta m.csv --cache c --quiet",
    "data import": "data import --a rna=p.fa --b molecule=m.csv --pairs pairs.tsv --cache c",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_columns_are_named_in_every_command(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = runner._run(crossllm, [*COMMANDS[name].split(), *ASKED])
    assert code == 0, capsys.readouterr().err
    assert {i: e.length for i, e in read_table(folder / "c", "molecule").items()} == {"x": 2, "y": 4}
    assert "2 records: ids from 'ref', SMILES from 'parent'" in capsys.readouterr().err
    assert runner._run(crossllm, [*COMMANDS[name].replace("--cache c", "--cache d").split(), "--id-field", "X"]) == 2
    assert "--id-field X: m.csv is no SD file" in capsys.readouterr().err


NUCLEOTIDES = {
    "embed run": "embed run --modality protein --input p.fa --encoder profile --cache c --quiet",
    "data import": "data import --a protein=p.fa --b molecule=m.csv --pairs pairs.tsv --cache c --id-column ref",
}


@pytest.mark.parametrize("name", NUCLEOTIDES)
def test_nucleotides_are_asked_about_in_every_command(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner._run(crossllm, NUCLEOTIDES[name].split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "p.fa: 2 of 2 sequences hold only A, C, G, T/U or N" in line
    assert not (folder / "c").exists()
    assert runner._run(crossllm, [*NUCLEOTIDES[name].split(), "--allow-nucleotides"]) == 0, capsys.readouterr().err


SDF = "mol\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n    0.0 0.0 0.0 C   0  0\nM  END\n$$$$\n"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        (SDF, "--id-column ref", "--id-column: m.csv is an SD file; leave it out, or --id-field"),
        (SDF, "--smiles-column x", "--smiles-column: m.csv is an SD file; leave it out"),
        (SDF, "--smiles-first", "--smiles-first: m.csv is an SD file; leave it out"),
    ],
)
def test_what_the_file_has_no_use_for_is_refused(
    name: str, text: str, flags: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "m.csv").write_text(text)
    assert runner._run(crossllm, [*COMMANDS[name].split(), *flags.split()]) == 2
    assert said in capsys.readouterr().err
