"""`crossllm explain` as a user runs it: the folder that it leaves, hostile ids, and bad input in one line."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Program
from made_runs import rows

from crossllm.cache import record_of
from crossllm.cache.errors import Conflict
from crossllm.pipeline.explaining.explanation import Deletion, Explanation, Track
from crossllm.pipeline.explaining.folder import file_name, write_explanations
from crossllm.pipeline.training.inputs import TrainOptions

ALL = "a_id\tb_id\tlabel\nrna0000\tprotein0003\t1\nrna0001\tprotein0004\t0\nrna0000\tprotein0003\t1\n"


@pytest.fixture
def run(trained: TrainOptions, tmp_path: Path) -> Path:
    """A finished run, with tables of pairs and files of sequences beside it."""
    (tmp_path / "pairs.tsv").write_text(ALL)
    (tmp_path / "one.tsv").write_text("b_id\ta_id\nprotein0003\trna0000\n")
    (tmp_path / "none.tsv").write_text("a_id\tb_id\n")
    (tmp_path / "columns.tsv").write_text("rna\tprotein\nrna0000\tprotein0003\n")
    (tmp_path / "half.tsv").write_text("a_id\tb_id\nrna0000\t\nrna0001\tprotein0001\n")
    (tmp_path / "unknown.tsv").write_text("a_id\tb_id\nrna0000\tprotein9\nRNA0000\tprotein0003\n")
    (tmp_path / "swapped.tsv").write_text("a_id\tb_id\nprotein0003\trna0000\n")
    many = "".join(f"rna{a:04d}\tprotein{b:04d}\n" for a in range(11) for b in range(10))
    (tmp_path / "many.tsv").write_text("a_id\tb_id\n" + many)
    (tmp_path / "new.fasta").write_text(">new\nGGAUCGGAUC\n")
    (tmp_path / "new.tsv").write_text("a_id\tb_id\nnew\tprotein0003\n")
    (tmp_path / "taken").mkdir()
    return trained.cache_dir / "runs" / "demo"


def test_it_leaves_a_table_plots_and_a_summary(run: Path, program: Program, tmp_path: Path) -> None:
    done = program("crossllm", "explain", run, "--pairs", "pairs.tsv", "--out", "found", "--steps", 8)
    assert done.returncode == 0, done.stderr
    assert "pairs.tsv: 1 rows repeat a pair; each is explained once" in done.stderr
    assert "rna0001 protein0004" in done.stdout
    names = [f"000{n + 1}-rna000{n}-protein000{n + 3}" for n in range(2)]
    kinds = {f"{name}.{kind}" for name in names for kind in ("tsv", "svg", "png")}
    assert {path.name for path in (tmp_path / "found").iterdir()} == {*kinds, "summary.tsv", "explain.json"}
    summary = rows(tmp_path / "found" / "summary.tsv")
    body = json.loads((tmp_path / "found" / "explain.json").read_text())
    assert [row["pair"] for row in summary] == [pair["pair"] for pair in body["pairs"]] == names
    assert (body["steps"], body["width"], body["unit"], len(body["folds"])) == (8, 5, "logit", 2)
    fasta = (run.parents[1] / "rna.fasta").read_text().splitlines()
    for name, row in zip(names, summary, strict=True):
        places = rows(tmp_path / "found" / f"{name}.tsv")
        own = [place for place in places if place["side"] == "a"]
        assert "".join(place["letter"] for place in own) == fasta[2 * int(row["a_id"][3:]) + 1]
        assert [int(place["place"]) for place in own] == list(range(1, len(own) + 1))
        total = sum(float(place["attribution"]) for place in own)
        expected = float(row["value"]) - float(row["without_a"])
        assert total - expected == pytest.approx(float(row["error_a"]), abs=abs(float(row["error_a"])) + 1e-6)
        assert ElementTree.parse(tmp_path / "found" / f"{name}.svg").getroot().tag.endswith("svg")
    again = program("crossllm", "explain", run, "--pairs", "one.tsv", "--out", "again", "--steps", 8, "--json")
    assert json.loads(again.stdout)["pairs"][0] == body["pairs"][0]
    for kind in ("tsv", "svg"):
        alone, among = (tmp_path / folder / f"{names[0]}.{kind}" for folder in ("again", "found"))
        assert alone.read_bytes() == among.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nowhere --pairs one.tsv --out new", "nowhere: holds no run"),
        ("RUN --pairs absent.tsv --out new", "absent.tsv"),
        ("RUN --pairs none.tsv --out new", "none.tsv: holds no pair"),
        ("RUN --pairs columns.tsv --out new", "columns.tsv:1: no column a_id, b_id in the header 'rna protein'"),
        ("RUN --pairs half.tsv --out new", "half.tsv:2: b_id: an empty id"),
        ("RUN --pairs new.fasta --out new", "new.fasta: "),
        ("RUN --pairs swapped.tsv --out new", "are a_id and b_id swapped?"),
        (
            "RUN --pairs new.tsv --out new",
            "a_id 'new' stands neither in a file that was given nor in the run's dataset",
        ),
        ("RUN --pairs new.tsv --a protein=new.fasta --out new", "side a of this run is rna, not protein"),
        ("RUN --pairs new.tsv --a new.fasta --out new", "'new.fasta' is not MODALITY=FILE"),
        ("RUN --pairs one.tsv --a rna=absent.fasta --out new", "absent.fasta"),
        ("RUN --pairs many.tsv --out new", "many.tsv: 110 pairs, 100 are explained at once; add --all"),
        ("RUN --pairs one.tsv --fold 7 --out new", "has no fold '7'; its folds: 0, 1"),
        ("RUN --pairs one.tsv --steps 0 --out new", "--steps"),
        ("RUN --pairs one.tsv --width 0 --out new", "--width"),
        ("RUN --pairs one.tsv --data nowhere --out new", "nowhere"),
        ("RUN --pairs one.tsv --device tpu --out new", "--device tpu"),
        ("RUN --pairs one.tsv", "--out"),
        ("RUN --out new", "--pairs"),
    ],
)
def test_bad_input_is_one_line(run: Path, program: Program, tmp_path: Path, arguments: str, said: str) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    done = program("crossllm", "explain", *(str(run) if word == "RUN" else word for word in arguments.split()))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or "Usage" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_every_unknown_id_has_its_line(run: Path, program: Program) -> None:
    done = program("crossllm", "explain", run, "--pairs", "unknown.tsv", "--out", "new")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2), done.stderr
    assert "a_id 'RNA0000' stands neither in a file that was given nor in the run's dataset" in done.stderr


def test_new_sequences_are_embedded_by_the_runs_own_recipe(run: Path, program: Program, tmp_path: Path) -> None:
    flags = ("explain", run, "--pairs", "new.tsv", "--a", "rna=new.fasta", "--steps", 4)
    done = program("crossllm", *flags, "--out", "new", "--cache", "rows")
    assert done.returncode == 0, done.stderr
    places = [row for row in rows(tmp_path / "new" / "0001-new-protein0003.tsv") if row["side"] == "a"]
    assert "".join(row["letter"] for row in places) == "GGAUCGGAUC"
    assert (tmp_path / "rows" / "embeddings" / "rna").is_dir()


def test_a_folder_that_is_there_is_never_written_over(run: Path, program: Program) -> None:
    done = program("crossllm", "explain", run, "--pairs", "one.tsv", "--out", "taken")
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1), done.stderr


def test_a_run_that_is_not_finished_is_refused(run: Path, program: Program, tmp_path: Path) -> None:
    (run / "metrics.json").unlink()
    done = program("crossllm", "explain", run, "--pairs", "one.tsv", "--out", "new")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is not finished" in done.stderr


def test_a_run_outside_of_its_cache_is_told_it(run: Path, program: Program, tmp_path: Path) -> None:
    shutil.move(run, tmp_path / "moved")
    refused = program("crossllm", "explain", "moved", "--pairs", "one.tsv", "--out", "new")
    assert refused.returncode == 2
    assert "lies in no dataset's folder; name the dataset that it was trained on by --data" in refused.stderr
    cache = run.parents[1]
    done = program("crossllm", "explain", "moved", "--pairs", "one.tsv", "--out", "new", "--data", cache, "--steps", 4)
    assert done.returncode == 0, done.stderr
    assert (
        "take more --steps" in done.stderr
        or max(float(row["relative_error"]) for row in rows(tmp_path / "new" / "summary.tsv")) <= 0.05
    )


def made(a_id: str, b_id: str) -> Explanation:
    """Of an RNA and a molecule."""
    rna, molecule = record_of("rna", a_id, "ACGU"), record_of("molecule", b_id, "CC(=O)[O-]")
    a = Track(rna.id, "rna", rna.sequence, tuple("ACGU"), np.array([0.1, -0.2, 0.3, 0]), np.full(4, 0.1), np.zeros(4))
    atoms = ("C", "C", "O", "[O-]")
    b = Track(molecule.id, "molecule", molecule.sequence, atoms, np.array([0.0, 0.5, 1, -1]), None, np.ones(4))
    share = np.linspace(0, 1, 11)
    return Explanation(a, b, 1.5, (0.5, 0.2), 2, 3, (0.0, 0.1), None, Deletion(share, 1 - share, share, share))


ODD = ("../../etc/passwd", "a/b\\c:d", "--out", "Ünïcode λ", "x" * 300, "CON", ".", '"quoted", cell', "a$b_{c}$", "-")


@pytest.mark.slow
def test_ids_never_become_paths_and_are_read_back(tmp_path: Path) -> None:
    ids = [*((id_, "same") for id_ in ODD[:2]), *zip(ODD, ODD[3:] + ODD[:3], strict=True)]
    pairs = [made(*both) for both in ids]
    write_explanations(tmp_path / "found", pairs, {}, "affinity")
    assert [path.name for path in tmp_path.iterdir()] == ["found"]
    names = [path.name for path in (tmp_path / "found").iterdir()]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}", name) for name in names)
    assert len(names) == 4 * len(pairs) + 2
    assert [(row["a_id"], row["b_id"]) for row in rows(tmp_path / "found" / "summary.tsv")] == [
        (found.a.id, found.b.id) for found in pairs
    ]
    with (tmp_path / "found" / f"{file_name(1, ODD[0], 'same')}.tsv").open(newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert {row["id"] for row in table} == {ODD[0], "same"}
    assert [row["deviation"] for row in table] == ["0.1"] * 4 + ["-"] * 4


def test_a_molecules_atoms_are_drawn(tmp_path: Path) -> None:
    write_explanations(tmp_path / "found", [made("r", "m")], {}, "affinity")
    text = (tmp_path / "found" / "0001-r-m.b.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert all(f"class='atom-{atom}'" in text for atom in range(4)), "each atom has its disc"
    assert not (tmp_path / "found" / "0001-r-m.a.svg").exists()


def test_nothing_is_left_of_a_command_that_fails(tmp_path: Path) -> None:
    def fails() -> object:
        yield made("r", "m")
        raise MemoryError

    with pytest.raises(MemoryError):
        write_explanations(tmp_path / "found", fails(), {}, "logit")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    (tmp_path / "found").mkdir()
    with pytest.raises(Conflict, match="is there already"):
        write_explanations(tmp_path / "found", [], {}, "logit")
