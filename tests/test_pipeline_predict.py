"""`crossllm predict`: what is written, that it is what the run's models say, and that nothing is done twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from made_pairs import New, new_pairs, table
from zygote import Zygote

from crossllm.cache import CacheReader, InputError, list_recipes, read_table
from crossllm.cache.records.reading import read_records
from crossllm.pipeline import load_run
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use import output, scoring
from crossllm.pipeline.use.predicting import PredictOptions, predict_table
from crossllm.pipeline.use.predictor import COLUMNS

pytestmark = pytest.mark.slow


@pytest.fixture
def new(trained: TrainOptions, tmp_path: Path) -> New:
    return new_pairs(trained.cache_dir, tmp_path / "new")


def options(new: New, out: Path, **more: object) -> PredictOptions:
    sides = Side("rna", new.folder / "rna.fasta"), Side("protein", new.folder / "protein.fasta")
    return PredictOptions(new.run, new.folder / "pairs.tsv", out, *sides, quiet=True, **more)  # type: ignore[arg-type]


def test_every_input_column_is_kept_and_the_answers_are_those_of_the_models(new: New, program: Program) -> None:
    given = table(new.folder / "pairs.tsv")
    with (new.folder / "more.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("note", "b_id", "a_id"))
        writer.writerows((f'"x", {n}\nsecond line', row["b_id"], row["a_id"]) for n, row in enumerate(given))
    done = program("crossllm", *new.command("out.tsv", pairs="more.csv"))
    assert done.returncode == 0, done.stderr
    assert "30 pairs of" in done.stdout
    assert "2 encoders loaded" in done.stdout
    found = table(new.folder.parent / "out.tsv")
    assert list(found[0]) == ["note", "b_id", "a_id", *COLUMNS]
    assert [(row["a_id"], row["b_id"]) for row in found] == [(row["a_id"], row["b_id"]) for row in given]
    assert found[7]["note"] == '"x", 7\nsecond line'
    run = load_run(new.run)
    readers = [CacheReader(new.cache, list_recipes(new.cache, side)[0]) for side in ("rna", "protein")]
    keys = [
        {r.id: r.key for r in read_records(new.folder / f"{side}.fasta", side).records} for side in ("rna", "protein")
    ]
    raw = run.score(*readers, [(keys[0][row["a_id"]], keys[1][row["b_id"]]) for row in given])
    chance = run.probability(raw)
    for n, row in enumerate(found):
        assert float(row["score"]) == pytest.approx(chance[:, n].mean(), abs=2e-6)
        assert float(row["score_low"]) == pytest.approx(chance[:, n].min(), abs=2e-6)
        assert float(row["score_high"]) == pytest.approx(chance[:, n].max(), abs=2e-6)
        assert float(row["uncertainty"]) == pytest.approx(chance[:, n].std(ddof=1), abs=2e-6)
        assert row["predicted"] in ("0", "1")
        assert row["domain"] == "C3 far"
        assert row["nearest_a"] == "0"
        assert float(row["nearest_b"]) < 0.5


def test_ids_of_the_dataset_need_no_file_and_are_seen(new: New, program: Program) -> None:
    held = table(new.cache / "pairs.tsv")[:5]
    (new.folder / "own.tsv").write_text("a_id\tb_id\n" + "".join(f"{r['a_id']}\t{r['b_id']}\n" for r in held))
    done = program("crossllm", "predict", new.run, "--pairs", new.folder / "own.tsv", "-o", "own.csv", "--json")
    assert done.returncode == 0, done.stderr
    found = table(new.folder.parent / "own.csv", ",")
    assert {row["domain"] for row in found} == {"C1"}
    assert {row["nearest_a"] for row in found} == {"1"}
    said = json.loads(done.stdout)
    assert said["encoders_loaded"] == 0
    assert said["domains"] == {"C1": 5}


def test_domains_say_which_partner_is_new_and_whether_it_has_relatives(new: New, program: Program) -> None:
    pair = table(new.cache / "pairs.tsv")[0]
    rna, protein = (
        {r.id: r.sequence for r in read_records(new.cache / f"{side}.fasta", side).records}[pair[f"{letter}_id"]]
        for letter, side in (("a", "rna"), ("b", "protein"))
    )
    other = {"A": "C"}.get(rna[20], "A")
    (new.folder / "rna.fasta").write_text(f">near\n{rna[:20]}{other}{rna[21:]}\n>far\n{'ACGGU' * 9}\n")
    (new.folder / "protein.fasta").write_text(f">far\n{'WYHCM' * 8}\n>same\n{protein}\n")
    a, b = pair["a_id"], pair["b_id"]
    rows = [(a, b), ("near", b), ("far", b), (a, "far"), ("near", "far"), ("near", "same")]
    (new.folder / "pairs.tsv").write_text("a_id\tb_id\n" + "".join(f"{x}\t{y}\n" for x, y in rows))
    assert program("crossllm", *new.command("out.tsv")).returncode == 0
    found = table(new.folder.parent / "out.tsv")
    assert [r["domain"] for r in found] == ["C1", "C2a near", "C2a far", "C2b far", "C3 far", "C2a near"]
    assert float(found[1]["nearest_a"]) == pytest.approx((len(rna) - 1) / len(rna), abs=1e-3)
    assert found[5]["nearest_b"] == "1"


def test_a_second_call_loads_no_encoder(new: New, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    first = program("crossllm", *new.command("one.tsv"))
    assert "2 encoders loaded" in first.stdout
    second = program("crossllm", *new.command("two.tsv"))
    assert "0 embedded, no encoder loaded" in second.stdout
    held = new.folder.parent
    assert (held / "one.tsv").read_bytes() == (held / "two.tsv").read_bytes()
    # Without the registry of encoders the same command still has its answer.
    monkeypatch.setitem(sys.modules, "crossllm.embed.run.by_recipe", None)
    assert predict_table(options(new, held / "three.tsv")) is not None
    assert (held / "one.tsv").read_bytes() == (held / "three.tsv").read_bytes()
    assert set(read_table(new.cache, "rna")) == {r["id"] for r in _ids(new.cache / "rna.fasta")}


def _ids(path: Path) -> list[dict[str, str]]:
    return [{"id": line[1:].split()[0]} for line in path.read_text().splitlines() if line.startswith(">")]


def test_new_rows_go_into_another_cache_where_one_is_named(new: New, program: Program) -> None:
    before = sorted(p.name for p in new.cache.glob("embeddings/*/*/segments/*"))
    assert program("crossllm", *new.command("one.tsv", "--cache", "other")).returncode == 0
    assert sorted(p.name for p in new.cache.glob("embeddings/*/*/segments/*")) == before
    again = program("crossllm", *new.command("two.tsv", "--cache", "other"))
    assert "no encoder loaded" in again.stdout
    held = new.folder.parent
    assert (held / "one.tsv").read_bytes() == (held / "two.tsv").read_bytes()


@pytest.mark.parametrize("kept", [0, 40_000, scoring.KEPT_BYTES])
def test_memory_for_encodings_changes_no_answer(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    whole = predict_table(options(new, tmp_path / "whole.tsv"))
    monkeypatch.setattr(scoring, "TILE_VALUES", 150 * 8)
    monkeypatch.setattr(scoring, "FUSED_PAIRS", 4)
    monkeypatch.setattr(scoring.Scorer.__init__, "__defaults__", (kept,))
    tiled = predict_table(options(new, tmp_path / "tiled.tsv"))
    assert whole is not None
    assert tiled is not None
    entities = sum(whole.sequences.values()) * 2
    assert whole.encodings == entities
    assert tiled.encodings >= entities
    assert (tiled.encodings == entities) == (kept > 0)
    for one, other in zip(table(tmp_path / "whole.tsv"), table(tmp_path / "tiled.tsv"), strict=True):
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=2e-6)


def test_parquet_holds_the_same_as_text(new: New, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    predict_table(options(new, tmp_path / "out.tsv"))
    predict_table(options(new, tmp_path / "out.parquet", chunk=7))
    found = parquet.read_table(tmp_path / "out.parquet")
    rows = table(tmp_path / "out.tsv")
    assert found.column_names == list(rows[0])
    assert found["score"].to_pylist() == pytest.approx([float(row["score"]) for row in rows], abs=2e-6)
    assert found["predicted"].to_pylist() == [int(row["predicted"]) for row in rows]
    assert found["a_id"].to_pylist() == [row["a_id"] for row in rows]
    assert found["label"].to_pylist() == [row["label"] for row in rows]


def test_killed_and_resumed_it_is_byte_for_byte_the_same(new: New, programs: Zygote, program: Program) -> None:
    held = new.folder.parent
    assert program("crossllm", *new.command("whole.tsv", "--chunk", 2)).returncode == 0
    killed = []
    for parts in (0, 1, 4, 9, 15):
        with tempfile.TemporaryFile() as said, open(os.devnull, "rb") as nothing:
            words = [*map(str, new.command("cut.tsv", "--chunk", 2, "--resume"))]
            child = programs.start("crossllm", words, (nothing, said, said), cwd=held)
            while child.poll() is None and len(list(output.parts_folder(held / "cut.tsv").glob("0*.tsv"))) < parts:
                time.sleep(0.001)
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            killed.append(child.wait(60) == -signal.SIGKILL)
    assert all(killed[:4]), killed
    done = program("crossllm", *new.command("cut.tsv", "--chunk", 2, "--resume"))
    assert done.returncode == 0, done.stderr
    assert (held / "cut.tsv").read_bytes() == (held / "whole.tsv").read_bytes()
    assert not output.parts_folder(held / "cut.tsv").exists()
    assert not list(held.glob(".tmp-*"))


def test_parts_that_are_there_are_not_made_again(new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.tsv"
    predict_table(options(new, tmp_path / "whole.tsv", chunk=4))

    def stop(self: output.Table, parts: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output.Table, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_table(options(new, out, chunk=4))
    (output.parts_folder(out) / "00000003.tsv").unlink()
    made: list[int] = []
    written = output.Table.write
    monkeypatch.setattr(output.Table, "write", lambda self, n, rows: (made.append(n), written(self, n, rows))[1])
    summary = predict_table(options(new, out, chunk=4, resume=True))
    assert made == [3]
    assert summary is not None
    assert summary.resumed == 26
    assert out.read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    assert predict_table(options(new, out, resume=True)) is None


def test_memory_does_not_grow_with_the_table(new: New, tmp_path: Path) -> None:
    header, *rows = (new.folder / "pairs.tsv").read_text().splitlines(keepends=True)

    def peak(times: int) -> int:
        (new.folder / "pairs.tsv").write_text(header + "".join(rows) * times)
        tracemalloc.start()
        try:
            predict_table(options(new, tmp_path / "out.tsv", chunk=64, overwrite=True))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    small, large = peak(10), peak(200)
    assert large < small + (512 << 10), (small, large)  # held, 5,700 rows would take megabytes
    assert (tmp_path / "out.tsv").read_bytes().count(b"\n") == 6001


def test_affinities_have_their_conformal_interval(new: New, tmp_path: Path) -> None:
    from made_runs import QUICK

    from crossllm.embed.run.run import RunOptions, run
    from crossllm.pipeline.data.dataset import write_dataset
    from crossllm.pipeline.data.pairs import Pair
    from crossllm.pipeline.train import train

    records = {side: list(read_records(new.cache / f"{side}.fasta", side).records) for side in ("rna", "protein")}
    pairs = [
        Pair(r["a_id"], r["b_id"], n % 7 + float(r["label"]), 0, ())
        for n, r in enumerate(table(new.cache / "pairs.tsv"))
    ]
    folder = tmp_path / "affinity"
    write_dataset(folder, "affinity", "regression", ("rna", "protein"), records, pairs, (), {})
    for side in records:
        run(RunOptions(side, folder / f"{side}.fasta", folder, "profile", quiet=True))
    train(TrainOptions(folder, QUICK, quiet=True))
    one = new._replace(run=folder / "runs" / "affinity", cache=folder)
    predict_table(options(one, tmp_path / "out.tsv"))
    finished = load_run(one.run)
    half = float(np.mean([fold.half_width for fold in finished.folds]))
    for row in table(tmp_path / "out.tsv"):
        score, low, high = (float(row[name]) for name in ("score", "score_low", "score_high"))
        assert row["predicted"] == row["score"]
        assert high - score == pytest.approx(half, rel=1e-5)
        assert score - low == pytest.approx(half, rel=1e-5)


def test_python_gives_the_same_answers_as_the_command(new: New, tmp_path: Path) -> None:
    import pandas as pd

    from crossllm.pipeline import predict

    predict_table(options(new, tmp_path / "out.tsv"))
    rows = table(tmp_path / "out.tsv")
    files = {"a": new.folder / "rna.fasta", "b": new.folder / "protein.fasta"}
    held = {
        side: {r.id: r.sequence for r in read_records(path, kind).records}
        for (side, path), kind in zip(files.items(), ("rna", "protein"), strict=True)
    }
    ids = [(row["a_id"], row["b_id"]) for row in rows]
    frames = [
        predict(new.run, new.folder / "pairs.tsv", **files, quiet=True),
        predict(load_run(new.run), ids, **held, quiet=True),
        predict(str(new.run), pd.DataFrame(ids, columns=["a_id", "b_id"]), held["a"], files["b"], quiet=True),
    ]
    for frame in frames:
        assert list(frame.columns)[-len(COLUMNS) :] == list(COLUMNS)
        assert frame["score"].tolist() == pytest.approx([float(row["score"]) for row in rows], abs=1e-6)
        assert frame["domain"].tolist() == [row["domain"] for row in rows]
        assert frame["predicted"].tolist() == [int(row["predicted"]) for row in rows]
    with pytest.raises(InputError, match=r"1 ids of side a have a sequence neither .* first 'nobody'"):
        predict(new.run, [("nobody", "protein0001")], quiet=True)
    with pytest.raises(InputError, match="has a column 'score'"):
        predict(new.run, frames[0], **files, quiet=True)


def test_what_was_learnt_on_the_demo_holds_for_new_sequences(tmp_path: Path) -> None:
    """One model of `make demo`'s settings on 1,000 pairs of another seed; all three after 12 epochs: 0.91 and 0.027.

    On its own test pairs, which nothing was chosen on, it has what `test_the_demo_is_learnt` asks of all epochs.
    """
    from made_runs import embedded_demo
    from sklearn.metrics import matthews_corrcoef

    from crossllm.model.settings import ModelConfig
    from crossllm.pipeline.data.demo import write_demo
    from crossllm.pipeline.evaluation.classification import calibration_error
    from crossllm.pipeline.train import train
    from crossllm.pipeline.training.config import TrainConfig

    folder = embedded_demo(tmp_path / "demo")
    parts = [("train", 2300), ("valid", 300), ("test", 400)]
    names = [name for name, count in parts for _ in range(count)]
    rows = zip(table(folder / "pairs.tsv"), names, strict=True)
    split = tmp_path / "split.tsv"
    split.write_text("a_id\tb_id\tfold\n" + "".join(f"{r['a_id']}\t{r['b_id']}\t{name}\n" for r, name in rows))
    config = TrainConfig(split="file", epochs=7, lr=3e-3, model=ModelConfig(standardise=False, summary_width=0))
    run = train(TrainOptions(folder, config, split_file=split, baselines="none", quiet=True)).folder
    tested = table(run / "predictions.tsv")
    assert len(tested) == 400
    assert matthews_corrcoef(*([int(row[name]) for row in tested] for name in ("label", "predicted"))) >= 0.8
    write_demo(tmp_path / "new", seed=77, entities=400, pairs=1000)
    new = New(run, folder, tmp_path / "new")
    predict_table(options(new, tmp_path / "out.tsv"))
    found = table(tmp_path / "out.tsv")
    label, called = (np.array([int(row[name]) for row in found]) for name in ("label", "predicted"))
    score = np.array([float(row["score"]) for row in found])
    assert {row["domain"] for row in found} == {"C3 far"}
    assert {row["uncertainty"] for row in found} == {""}
    assert matthews_corrcoef(label, called) >= 0.75
    assert calibration_error(label, score, np.ones((1, len(label))))[0] <= 0.08
