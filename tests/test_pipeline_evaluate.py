"""`crossllm evaluate`: a run on another dataset: its numbers, its leaks, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from made_pairs import New, new_pairs, table

from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use.evaluating import EvaluateOptions, evaluate
from crossllm.pipeline.use.predicting import PredictOptions, predict_table

pytestmark = pytest.mark.slow


@pytest.fixture
def new(trained: TrainOptions, tmp_path: Path) -> New:
    return new_pairs(trained.cache_dir, tmp_path / "new", entities=20, pairs=80)


def embedded(folder: Path, dtype: str | None = None) -> Path:
    for modality in ("rna", "protein"):
        run(RunOptions(modality, folder / f"{modality}.fasta", folder, "profile", dtype=dtype, quiet=True))  # type: ignore[arg-type]
    return folder


def test_its_predictions_are_those_of_predict_and_its_numbers_are_theirs(new: New, program: Program) -> None:
    other = embedded(new.folder)
    done = program("crossllm", "evaluate", new.run, "--cache", other, "--out", "found")
    assert done.returncode == 0, done.stderr
    held = new.folder.parent
    rows = table(held / "found" / "predictions.tsv")
    options = PredictOptions(new.run, other / "pairs.tsv", held / "out.tsv", quiet=True)
    from crossllm.pipeline.data.importing import Side

    options = dataclasses.replace(
        options, a=Side("rna", other / "rna.fasta"), b=Side("protein", other / "protein.fasta")
    )
    predict_table(options)
    for own, answer in zip(rows, table(held / "out.tsv"), strict=True):
        assert (own["a_id"], own["b_id"], own["predicted"]) == (answer["a_id"], answer["b_id"], answer["predicted"])
        assert float(own["score"]) == pytest.approx(float(answer["score"]), abs=2e-6)
        assert own["domain"] == answer["domain"]
    metrics = json.loads((held / "found" / "metrics.json").read_text())
    label, call = (np.array([int(row[name]) for row in rows]) for name in ("label", "predicted"))
    assert metrics["model"]["accuracy"]["mean"] == pytest.approx((label == call).mean())
    assert metrics["leaks"]["by_sequence"] == {"C1": 0.0, "C2a": 0.0, "C2b": 0.0, "C3": 1.0}
    assert metrics["leaks"]["same_sequence_pair"] == 0
    assert f"demo: {len(rows)} pairs by 2 models of" in done.stdout
    assert "by sequence: both seen 0.0%, new rna 0.0%, new protein 0.0%, both new 100.0%" in done.stdout
    again = program("crossllm", "evaluate", new.run, "--cache", other, "--out", "found")
    assert again.returncode == 5
    assert "is not empty" in again.stderr


def test_its_own_pairs_are_called_trained_on(new: New, program: Program) -> None:
    done = program("crossllm", "evaluate", new.run, "--cache", new.cache, "--json")
    assert done.returncode == 0, done.stderr
    leaks = json.loads(done.stdout)["leaks"]
    assert leaks["by_sequence"]["C1"] == 1
    assert leaks["same_sequence_pair"] == 1
    said = program("crossllm", "evaluate", new.run, "--cache", new.cache).stdout
    assert "where a pair was trained on, its answer is no test of the run" in said


def test_a_half_known_dataset_has_its_classes(new: New, tmp_path: Path) -> None:
    """Half of the RNAs are of the training set: their pairs are C2b, and scored by themselves."""
    from crossllm.cache.records.reading import read_records
    from crossllm.pipeline.data.dataset import write_dataset
    from crossllm.pipeline.data.pairs import Pair

    old = [*read_records(new.cache / "rna.fasta", "rna").records][:10]
    more = [r._replace(id=f"new{r.id}") for r in [*read_records(new.folder / "rna.fasta", "rna").records][:10]]
    proteins = [*read_records(new.folder / "protein.fasta", "protein").records][:10]
    pairs = [Pair(a.id, b.id, float((n + m) % 2), 0, ()) for n, a in enumerate([*old, *more])
             for m, b in enumerate(proteins)]  # fmt: skip
    folder = tmp_path / "half"
    records = {"rna": [*old, *more], "protein": proteins}
    write_dataset(folder, "half", "classification", ("rna", "protein"), records, pairs, (), {})
    metrics = evaluate(EvaluateOptions(new.run, embedded(folder), quiet=True))
    assert metrics["leaks"]["by_sequence"] == {"C1": 0.0, "C2a": 0.0, "C2b": 0.5, "C3": 0.5}
    assert sum(found["pairs"] for found in metrics["classes"].values()) == 200
    assert {name.split()[0] for name in metrics["classes"]} == {"C2b", "C3"}
    assert all("mcc" in found for found in metrics["classes"].values() if found["pairs"] >= 20)


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("recipe", 2, "here: profile-"),
        ("recipe", 2, "dtype: float16, not float32"),
        ("none", 2, "here: none"),
        ("rows", 2, "pairs have no rows in the run's recipes, the first for"),
        ("no dataset", 2, "no dataset here"),
        ("task", 2, "is a regression"),
        ("sides", 2, "its sides are protein and rna, those of"),
        ("no run", 2, "holds no run"),
    ],
)
def test_what_does_not_fit_is_refused(case: str, code: int, text: str, new: New, program: Program) -> None:
    other, head = new.folder, new.folder / "dataset.toml"
    run_folder: Path = new.run
    if case == "recipe":
        embedded(other, "float32")
    elif case == "rows":
        embedded(other)
        shutil.rmtree(other / "embeddings" / "rna")
        short = new.folder.parent / "short.fasta"
        short.write_text("\n".join((other / "rna.fasta").read_text().splitlines()[:8]) + "\n")
        run(RunOptions("rna", short, other, "profile", quiet=True))
    elif case == "no dataset":
        head.unlink()
    elif case == "task":
        head.write_text(head.read_text().replace('"classification"', '"regression"'))
    elif case == "sides":
        text_of = head.read_text().replace('"rna"', '"x"').replace('"protein"', '"rna"').replace('"x"', '"protein"')
        head.write_text(text_of)
        pairs = [line.split("\t") for line in (other / "pairs.tsv").read_text().splitlines()]
        import hashlib

        data = "".join("\t".join([b, a, *rest]) + "\n" for a, b, *rest in pairs).replace("b_id\ta_id", "a_id\tb_id")
        before = hashlib.sha256((other / "pairs.tsv").read_bytes()).hexdigest()
        (other / "pairs.tsv").write_text(data)
        head.write_text(head.read_text().replace(before, hashlib.sha256(data.encode()).hexdigest()))
    elif case == "no run":
        run_folder = new.cache
    done = program("crossllm", "evaluate", run_folder, "--cache", other, "--out", "found")
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    assert text in errors[0]
    assert not (new.folder.parent / "found").exists()
