"""`crossllm predict` end to end where a side is molecules, and where both are proteins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pairs import table
from made_runs import QUICK

from crossllm.cache import CacheReader, list_recipes
from crossllm.cache.records.reading import read_records
from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline import load_run
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use.predicting import PredictOptions, predict_table
from crossllm.pipeline.use.predictor import COLUMNS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]
ENDINGS = {"rna": "fasta", "protein": "fasta", "molecule": "smi"}
LETTERS = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}


def written(folder: Path, name: str, modality: str, rng: np.random.Generator, count: int) -> Path:
    """A file of random sequences, or of chains of carbon, nitrogen and oxygen; ids are `name` and a number."""
    path = folder / f"{name}.{ENDINGS[modality]}"
    if modality == "molecule":
        spelt = {"C" + "".join(rng.choice(list("CNO"), 5 + n)) for n in range(count)}
        path.write_text("".join(f"{name}{n}\t{smiles}\n" for n, smiles in enumerate(sorted(spelt))))
    else:
        drawn = ("".join(rng.choice(list(LETTERS[modality]), 20 + n)) for n in range(count))
        path.write_text("".join(f">{name}{n}\n{sequence}\n" for n, sequence in enumerate(drawn)))
    return path


def pairs_of(path: Path, rng: np.random.Generator, names: tuple[str, str], count: int, label: str | None) -> Path:
    """Every first with every second partner, with made labels of a kind."""
    lines = ["a_id\tb_id" + ("" if label is None else "\tlabel")]
    for a in range(count):
        for b in range(count):
            value = {"affinity": f"\t{5 + rng.normal():.3f}", "class": f"\t{(a + b) % 2}", None: ""}[label]
            lines.append(f"{names[0]}{a}\t{names[1]}{b}{value}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("sides", "label"),
    [(("rna", "molecule"), "affinity"), (("protein", "protein"), "class")],
    ids=["molecules", "proteins"],
)
def test_new_pairs_are_embedded_and_answered(
    sides: tuple[str, str], label: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder, files = tmp_path / "cache", []
    for name, modality in zip("xy", sides, strict=True):
        files.append(Side(modality, written(tmp_path, name, modality, rng, 9)))
    import_dataset(ImportOptions(*files, pairs_of(tmp_path / "pairs.tsv", rng, ("x", "y"), 9, label), folder))
    for file in files:
        run(RunOptions(file.modality, file.path, folder, "profile", quiet=True))
    made = train(TrainOptions(folder, QUICK, out=folder / "runs" / "made", quiet=True, baselines="none"))
    new = [Side(side, written(tmp_path, f"new{name}", side, rng, 4)) for name, side in zip("xy", sides, strict=True)]
    asked = pairs_of(tmp_path / "asked.tsv", rng, ("newx", "newy"), 4, None)
    asked.write_text(asked.read_text() + "x0\ty1\nx0\tnewy2\n")
    done = predict_table(PredictOptions(made.folder, asked, tmp_path / "out.tsv", *new, quiet=True))
    assert done is not None
    assert done.pairs == 18
    assert sum(done.embedded.values()) == 8
    found = table(tmp_path / "out.tsv")
    assert list(found[0]) == ["a_id", "b_id", *COLUMNS]
    assert [row["domain"][:3] for row in found] == ["C3 "] * 16 + ["C1", "C2b"]
    fitted = load_run(made.folder)
    readers = [CacheReader(folder, list_recipes(folder, side)[0]) for side in sides]
    keys = [
        {r.id: r.key for path in (old.path, own.path) for r in read_records(path, old.modality).records}
        for old, own in zip(files, new, strict=True)
    ]
    raw = fitted.score(*readers, [(keys[0][row["a_id"]], keys[1][row["b_id"]]) for row in found])
    expected = raw if label == "affinity" else fitted.probability(raw)
    given = np.array([[float(row[name]) for name in ("score_low", "score", "score_high")] for row in found])
    np.testing.assert_allclose(given[:, 1], expected.mean(0), rtol=1e-5, atol=2e-6)
    assert (given[:, 0] <= given[:, 1]).all()
    assert (given[:, 1] <= given[:, 2]).all()
    again = predict_table(PredictOptions(made.folder, asked, tmp_path / "again.tsv", *new, quiet=True))
    assert again is not None
    assert (sum(again.embedded.values()), again.encoders_loaded) == (0, 0)
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "out.tsv").read_bytes()
