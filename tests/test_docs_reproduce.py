"""`benchmarks/reproduce.py` from the public sets' layout to its table, with the paper's encoders at random weights."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT, Program
from made_splits import made_dataset
from made_weights import design_tensors, random_tensors
from safetensors.torch import save_file

from crossllm.embed.encoders import esm2, gnn, rinalmo
from crossllm.pipeline.data.dataset import Dataset

pytestmark = pytest.mark.slow
SMILES = ("CCO", "CCN", "c1ccccc1O", "CC(=O)O", "CCCl", "c1ccncc1", "CCOC", "CC(C)N", "OCCO", "NCCN", "CCS", "CCF")


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "benchmarks" / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def molecules(data: Path, dataset: Dataset, rng: np.random.Generator) -> None:
    """Affinities of the made RNAs with a few molecules, as R-SIM lies."""
    rna = sorted(set(dataset.a_ids))
    (data / "molecules.smi").write_text("".join(f"m{n}\t{smiles}\n" for n, smiles in enumerate(SMILES)))
    pairs = [(a, f"m{n}") for a in rna[:12] for n in range(len(SMILES)) if rng.random() < 0.7]
    lines = (f"{a}\t{b}\t{rng.normal(5):.4f}\t{('Aptamers', 'Viral')[n % 2]}\n" for n, (a, b) in enumerate(pairs))
    (data / "pairs.tsv").write_text("a_id\tb_id\tlabel\tsubtype\n" + "".join(lines))


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three made sets, one a task."""
    folder = tmp_path / "data"
    made = made_dataset(folder / "rpi488", rng, pairs=120)
    made_dataset(folder / "plant_mlnc", rng, pairs=150, modalities=("rna", "rna"))
    (folder / "rsim").mkdir()
    shutil.copy(folder / "rpi488" / "rna.fasta", folder / "rsim")
    molecules(folder / "rsim", made, rng)
    return folder


def test_the_three_tasks_end_to_end_with_the_papers_trio(
    script: ModuleType, data: Path, program: Program, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    weights = {name: tmp_path / f"{name}.safetensors" for name in ("rna", "protein", "molecule")}
    save_file(design_tensors(rinalmo.published(*rinalmo.SIZES["rinalmo-micro"]), rng), weights["rna"])
    save_file(design_tensors(esm2.published(*esm2.SIZES["esm2-8m"]), rng), weights["protein"])
    save_file(
        random_tensors(gnn.expected_shapes(gnn.CONVOLUTIONS["molebert"], gnn.DIM, gnn.LAYERS), rng), weights["molecule"]
    )

    def run(*command: object) -> str:
        done = program(*command)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stderr
        return done.stdout

    monkeypatch.setattr(script, "run", run)
    work = tmp_path / "work"
    arguments = [
        "--data", str(data), "--work", str(work), "--trio", "paper", "--rna", f"rinalmo-micro={weights['rna']}",
        "--protein", f"esm2-8m={weights['protein']}", "--molecule", f"molebert={weights['molecule']}",
        "--only", "rpi488", "rsim", "plant_mlnc", "--rows", "cluster", "paper", "ath→mtr",
        "--train", "--folds 2 --epochs 1 --d-model 8 --d-state 4 --tokens pooled --baselines fast",
    ]  # fmt: skip
    script.main(arguments)
    first = (work / "results.md").read_text()
    rows = [line for line in first.splitlines() if not line.startswith(("|---", "| set"))]
    assert [row.split("|")[1].strip() for row in rows] == [
        "rpi488, paper", "rpi488, cluster", "rsim, paper", "rsim, cluster", "plant_mlnc, ath→mtr",
    ]  # fmt: skip
    assert all(("optimistic" in row) == ("paper" in row.split("|")[1]) for row in rows)
    assert "one_number" in rows[0]
    assert "C1 0%, C2 0%, C3 100%" in rows[1]
    assert capsys.readouterr().out.rstrip() == first.rstrip()
    script.main(arguments)
    assert (work / "results.md").read_text() == first, "finished runs are shown, not trained again"
