"""`crossllm screen`: the best of all pairs are those of `predict` on all of them, each sequence is encoded once."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from made_pairs import New, new_pairs, table

from crossllm.cache.errors import Conflict
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use import output, scoring, screening, unfinished
from crossllm.pipeline.use.best import BestOfAll, BestOfEach
from crossllm.pipeline.use.predicting import PredictOptions, predict_table
from crossllm.pipeline.use.predictor import COLUMNS
from crossllm.pipeline.use.screening import Screened, ScreenOptions, screen

slow = pytest.mark.slow


@pytest.fixture
def new(trained: TrainOptions, tmp_path: Path) -> New:
    return new_pairs(trained.cache_dir, tmp_path / "new", entities=24, pairs=40)


def sides(new: New) -> dict[str, Side]:
    return {"a": Side("rna", new.folder / "rna.fasta"), "b": Side("protein", new.folder / "protein.fasta")}


def all_pairs(new: New, out: Path) -> list[dict[str, str]]:
    """Every pair, predicted, the best first."""
    files = [(new.folder / f"{side}.fasta").read_text().splitlines() for side in ("rna", "protein")]
    ids = [[line[1:] for line in lines if line[0] == ">"] for lines in files]
    (new.folder / "all.tsv").write_text("a_id\tb_id\n" + "".join(f"{a}\t{b}\n" for a, b in itertools.product(*ids)))
    predict_table(PredictOptions(new.run, new.folder / "all.tsv", out, **sides(new), quiet=True))
    return sorted(table(out), key=lambda row: -float(row["score"]))


@slow
@pytest.mark.parametrize("tiled", [False, True])
def test_the_best_are_those_of_predict_on_all_pairs(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiled: bool
) -> None:
    expected = all_pairs(new, tmp_path / "all.tsv")
    if tiled:
        monkeypatch.setattr(scoring, "TILE_VALUES", 300 * 8)
        monkeypatch.setattr(scoring, "GRID_SIDE", 3)
    done = screen(ScreenOptions(new.run, tmp_path / "best.tsv", **sides(new), top=100, quiet=True))
    assert isinstance(done, Screened)
    assert (done.pairs, done.encodings, done.models) == (24 * 24, 2 * 48, 2)
    found = table(tmp_path / "best.tsv")
    assert list(found[0]) == ["a_id", "b_id", *COLUMNS]
    assert {(row["a_id"], row["b_id"]) for row in found} == {(row["a_id"], row["b_id"]) for row in expected[:100]}
    by_pair = {(row["a_id"], row["b_id"]): row for row in expected}
    for row in found:
        other = by_pair[row["a_id"], row["b_id"]]
        for name in ("score", "score_low", "score_high", "uncertainty"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=2e-6)
        assert [row[name] for name in COLUMNS[4:]] == [other[name] for name in COLUMNS[4:]]
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)


@slow
@pytest.mark.parametrize("per", ["a", "b"])
def test_the_best_of_each_partner(new: New, tmp_path: Path, per: str) -> None:
    expected = all_pairs(new, tmp_path / "all.tsv")
    screen(ScreenOptions(new.run, tmp_path / "best.csv", **sides(new), top=3, per=per, quiet=True))  # type: ignore[arg-type]
    found = table(tmp_path / "best.csv", ",")
    own, other = (f"{per}_id", "b_id" if per == "a" else "a_id")
    assert len(found) == 3 * 24
    for id_ in {row[own] for row in expected}:
        best = [row[other] for row in expected if row[own] == id_][:3]
        assert [row[other] for row in found if row[own] == id_] == best


@slow
@pytest.mark.parametrize("kept", [70_000, 0])
def test_encodings_are_counted_where_memory_is_short(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """24 RNAs of some 50 tokens and 24 proteins of 40, of width 8 by two models: 77 kB and 61 kB."""
    whole = screen(ScreenOptions(new.run, tmp_path / "whole.tsv", **sides(new), quiet=True))
    monkeypatch.setattr(scoring, "TILE_VALUES", 300 * 8)
    monkeypatch.setattr(scoring.Scorer.__init__, "__defaults__", (kept,))
    short = screen(ScreenOptions(new.run, tmp_path / "short.tsv", **sides(new), quiet=True, top=100))
    assert isinstance(whole, Screened)
    assert isinstance(short, Screened)
    assert whole.encodings == 96
    assert short.encodings > 96  # the best pairs are answered once more
    one, other = table(tmp_path / "whole.tsv"), table(tmp_path / "short.tsv")
    assert [(r["a_id"], r["b_id"]) for r in one] == [(r["a_id"], r["b_id"]) for r in other]


class Cut(BaseException):
    """The screen ends here, as by a kill."""


@slow
@pytest.mark.parametrize("per", ["all", "b"])
def test_cut_off_anywhere_and_gone_on_with_it_is_byte_for_byte_the_same(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, per: str
) -> None:
    """After 1 to 6 of 16 blocks each time, and between two parts of the table; no block is done twice."""
    monkeypatch.setattr(scoring, "GRID_SIDE", 6)
    monkeypatch.setattr(screening, "AT_ONCE", 30)
    asked = dataclasses.replace(ScreenOptions(new.run, tmp_path / "whole.tsv", **sides(new)), top=5, quiet=True)
    asked = dataclasses.replace(asked, per=per, top=100 if per == "all" else 5)  # type: ignore[arg-type]
    screen(asked)
    monkeypatch.setattr(unfinished, "EVERY", 0)
    monkeypatch.setattr(unfinished, "TIMES", 0)
    cut = dataclasses.replace(asked, out=tmp_path / "cut.tsv", resume=True)
    save, write = unfinished.Unfinished.save_when_due, output.Table.write
    blocks: list[int] = []
    left = [0]

    def fewer() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Cut

    def saved(self: unfinished.Unfinished, number: int, pairs: int, best: dict[str, np.ndarray]) -> None:
        save(self, number, pairs, best)
        blocks.append(number)
        fewer()

    def written(self: output.Table, part: int, rows: list[tuple[str, ...]]) -> None:
        write(self, part, rows)
        fewer()

    monkeypatch.setattr(unfinished.Unfinished, "save_when_due", saved)
    monkeypatch.setattr(output.Table, "write", written)
    done = None
    while done is None:
        left[0] = int(rng.integers(1, 7))
        try:
            done = screen(cut)
        except Cut:
            assert not cut.out.exists()
    assert blocks == list(range(1, 17))
    assert isinstance(done, Screened)
    assert done.resumed == 576
    assert cut.out.read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if "parts" in path.name) == []


@slow
def test_what_was_saved_belongs_to_one_screen(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another number of best pairs is another table; damage begins again; a finished one is left alone."""
    monkeypatch.setattr(scoring, "GRID_SIDE", 12)
    monkeypatch.setattr(unfinished, "EVERY", 0)
    asked = ScreenOptions(new.run, tmp_path / "best.tsv", **sides(new), top=7, quiet=True)
    write = output.Table.write

    def cut(self: output.Table, part: int, rows: list[tuple[str, ...]]) -> None:
        raise Cut

    monkeypatch.setattr(output.Table, "write", cut)
    with pytest.raises(Cut):
        screen(asked)
    with pytest.raises(Conflict, match="go on with --resume"):
        screen(asked)
    with pytest.raises(Conflict, match="holds parts of another table"):
        screen(dataclasses.replace(asked, top=8, resume=True))
    kept = tmp_path / ".best.tsv.parts" / "best.npz"
    kept.write_bytes(kept.read_bytes()[:-40])
    monkeypatch.setattr(output.Table, "write", write)
    capsys.readouterr()
    done = screen(dataclasses.replace(asked, resume=True))
    assert isinstance(done, Screened)
    assert done.resumed == 0
    assert "not what was written, the screen begins again" in capsys.readouterr().err
    assert screen(dataclasses.replace(asked, resume=True)) is None


@slow
def test_the_plan_comes_first_and_a_dry_run_writes_nothing(new: New, program: Program) -> None:
    files = ["--a", f"rna={new.folder / 'rna.fasta'}", "--b", f"protein={new.folder / 'protein.fasta'}"]
    dry = program("crossllm", "screen", new.run, *files, "--out", "best.tsv", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "pairs      576: 24 × 24 distinct sequences; the best 100 are written" in dry.stdout
    assert "embed      48 sequences without rows" in dry.stdout
    assert "not known before there are rows" in dry.stdout
    assert not (new.folder.parent / "best.tsv").exists()
    done = program("crossllm", "screen", new.run, *files, "--out", "best.tsv")
    assert done.returncode == 0, done.stderr
    assert "576 pairs of 24 × 24 sequences, 96 encodings by 2 models" in done.stdout
    assert "pairs      576" in done.stderr
    again = program("crossllm", "screen", new.run, *files, "--out", "best.tsv", "--dry-run", "--json")
    plan = json.loads(again.stdout)
    assert plan["missing"] == [0, 0]
    assert plan["encodings"] == 96
    assert plan["seconds"] > 0


@slow
def test_without_files_the_sequences_of_the_dataset_are_screened(new: New, program: Program) -> None:
    done = program("crossllm", "screen", new.run, "--out", "best.tsv", "--top", 7, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "900 pairs of 30 × 30 sequences" in done.stdout
    assert {row["domain"] for row in table(new.folder.parent / "best.tsv")} == {"C1"}


@slow
def test_a_sequence_under_two_ids_is_screened_once(
    new: New, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta = new.folder / "rna.fasta"
    first = fasta.read_text().splitlines()[1]
    fasta.write_text(fasta.read_text() + f">again\n{first}\n")
    done = screen(ScreenOptions(new.run, tmp_path / "best.tsv", **sides(new), quiet=True))
    assert isinstance(done, Screened)
    assert done.sequences == (24, 24)
    assert "side a: 1 ids have the sequence of another" in capsys.readouterr().err


@slow
@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--lowest"], 2, "--lowest: "),
        (["--top", "0"], 2, "--top"),
        (["--per", "c"], 2, "--per"),
        (["--out", "best.xlsx"], 2, "ends in none of"),
        (["--out", "there.tsv"], 5, "is there already"),
        (["--a", "protein=x.fasta"], 2, "side a of this run is rna"),
        (["--a", "rna=gone.fasta"], 2, "no such file"),
        (["--a", "rna=empty.fasta"], 2, "empty.fasta"),
    ],
)
def test_bad_uses(words: list[str], code: int, text: str, new: New, program: Program) -> None:
    held = new.folder.parent
    (held / "there.tsv").write_text("mine\n")
    (held / "empty.fasta").write_text("")
    out = [] if "--out" in words else ["--out", "best.tsv"]
    done = program("crossllm", "screen", new.run, *out, *words)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert text in errors[0]
    assert not (held / "best.tsv").exists()
    assert (held / "there.tsv").read_text() == "mine\n"


def test_the_best_do_not_depend_on_the_blocks(rng: np.random.Generator) -> None:
    """Ties included: equal values in the order of the numbers."""
    n, m, k = 23, 17, 9
    value = rng.integers(0, 12, (n, m)).astype(float)
    order = np.lexsort((np.tile(np.arange(m), n), np.repeat(np.arange(n), m), -value.ravel()))[:k]
    per_row = np.argsort(-value, axis=1, kind="stable")[:, :k]
    for size in (1, 4, 5, 50):
        every, each = BestOfAll(k), BestOfEach(n, k)
        for a in np.split(np.arange(n), range(size, n, size)):
            for b in np.split(np.arange(m), range(size, m, size)):
                every.add(a, b, value[np.ix_(a, b)])
                each.add(a, b, value[np.ix_(a, b)])
        assert np.array_equal(np.stack(every.pairs()), np.stack([order // m, order % m]))
        own, other = each.pairs()
        assert np.array_equal(other.reshape(n, k), per_row)
        assert np.array_equal(own, np.repeat(np.arange(n), k))
