"""`crossllm report`: the page parsed, its numbers against the run's, honest words, hostile names, bad use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made_ablation, made_result, made_seeds
from read_page import Element, assert_whole, points_of, read_page, words

from crossllm.cache import CacheCorrupt, Conflict, InputError
from crossllm.cache.console import runner
from crossllm.cache.errors import plain_line
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.licences import licence_of
from crossllm.pipeline import write_report
from crossllm.pipeline.cli import crossllm
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.page import writing
from crossllm.pipeline.page.charts import HEIGHT, WIDTH, Axis, Chart, ticks
from crossllm.pipeline.page.predictions import read_predictions
from crossllm.pipeline.page.writing import MOST_BYTES
from crossllm.pipeline.reporting.figures import PAPER, figure_bytes, new_figure
from crossllm.pipeline.reporting.plots import roc_at
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.training.provenance import checkout_commit, read_provenance, record_provenance

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}\x1b[31m\u202e"


def page_of(out: Path, *runs: Path, title: str | None = None) -> Element:
    write_report(runs, out, title)
    page = read_page(out)
    assert_whole(page)
    assert out.stat().st_size <= MOST_BYTES
    return page


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


# -- what stands on a page


def test_a_classification(rng: np.random.Generator, tmp_path: Path) -> None:
    page = page_of(tmp_path / "r.html", made_result(tmp_path / "run", rng))
    titles = [svg.all("title")[0].text.split(",")[0] for svg in page.all("svg")]
    assert titles == [
        "MCC of the model and the baselines", "ROC curve", "Precision–recall curve", "Calibration of the model",
        "Loss curves of every fold",
    ]  # fmt: skip
    said = words(page)
    for text in ("both seen 50.0%", "trees", "digest " + "d" * 64, "CC BY 4.0", "mine, unknown here", "warmup_steps"):
        assert text in said, text


def test_a_regression_has_every_pair_with_its_interval(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng, task="regression")
    page = page_of(tmp_path / "r.html", run)
    model = page.all("svg")[1]
    tested = read_predictions(run / "predictions.tsv")
    outside = (tested.label < tested.further["low"]) | (tested.label > tested.further["high"])
    assert 0 < outside.sum() < len(outside)
    drawn = {style: model.all("path", style)[0].attributes["d"].count("M") for style in
             ("whisker s0", "dots s0", "whisker outside", "dots outside")}  # fmt: skip
    assert list(drawn.values()) == [(~outside).sum(), (~outside).sum(), outside.sum(), outside.sum()]
    assert f"does not: {outside.sum()} of 120" in words(page)
    assert "asked to hold 90% of the labels and hold 60.0 % on the test pairs" in words(page)


def test_the_roc_curve_is_the_mean_of_the_folds(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng)
    page = page_of(tmp_path / "r.html", run)
    tested = read_predictions(run / "predictions.tsv")
    at = np.linspace(0, 1, 101)
    expected = np.mean([roc_at(fold, at) for fold in tested.folds(["0", "1", "2"])], axis=0)
    places = points_of(page.all("svg")[1].all("path", "line s0 main")[0])
    frame = page.all("svg")[1].all("path", "frame")[0].attributes["d"]  # M left top V bottom H right
    left, top, bottom, right = (float(n) for n in frame.replace("V", " ").replace("H", " ").lstrip("M").split())
    x, y = (places[:, 0] - left) / (right - left), (bottom - places[:, 1]) / (bottom - top)
    np.testing.assert_allclose(y, np.interp(x, at, expected), atol=0.02)  # a curve's step between two of its places
    assert abs(float(np.trapezoid(y, x)) - float(np.trapezoid(expected, at))) < 0.002


def test_seeds_are_dots_and_means(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_seeds(tmp_path / "run", rng)
    page = page_of(tmp_path / "r.html", run)
    own = json.loads((run / "metrics.json").read_text())["model"]["mcc"]
    assert f"MCC {own['mean']:.3f} (± {own['std_over_seeds']:.3f} over 3 seeds" in words(page)
    standing = page.all("svg")[0]
    assert [path.attributes["d"].count("M") for path in standing.all("path", "dots point")] == [3, 3, 3]
    assert len(page.all("svg")[-1].all("path", "validation")) == 9


def test_seeds_that_differ_by_rounding_alone_have_no_deviation(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_seeds(tmp_path / "run", rng)
    edit(run / "metrics.json", lambda body: body["baselines"]["trees"]["mcc"].update(std_over_seeds=1.4e-16))
    said = words(page_of(tmp_path / "r.html", run))
    assert "e−16" not in said
    assert "± 0.000" in said


def test_an_ablation_and_runs_on_one_page(rng: np.random.Generator, tmp_path: Path) -> None:
    ablation = made_ablation(tmp_path / "abl", rng, ["cross_mamba", "concat", "gated"])
    page = page_of(tmp_path / "r.html", ablation, made_result(tmp_path / "affinity", rng, task="regression"))
    said = words(page)
    assert "Worse in MCC, the interval of the difference without 0: fusion=concat; fusion=gated." not in said
    assert "Worse in MCC, the interval of the difference without 0: fusion=gated." in said
    assert "1 row failed" in said
    assert "no such fusion" in said
    assert [words(h2) for h2 in page.all("h2")] == ["Ablation: abl", "abl, first row", f"{tmp_path.name}/affinity"]
    bars, differences = page.all("svg")[:2]
    assert len(bars.all("path", "bar")) == 3
    assert len(differences.all("path", "range")) == 2
    glance = page.all("table")[0]
    assert len(glance.all("tr")) == 3


def test_an_ablation_that_was_moved_is_still_read(rng: np.random.Generator, tmp_path: Path) -> None:
    made_ablation(tmp_path / "abl", rng, ["cross_mamba"])
    shutil.move(tmp_path / "abl", tmp_path / "moved")
    page_of(tmp_path / "r.html", tmp_path / "moved")


def test_a_baseline_that_is_ahead_elsewhere_is_in_the_first_sentences(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng)
    edit(run / "metrics.json", lambda body: body["baselines"]["trees"]["auroc"].update(mean=0.9999))
    page = page_of(tmp_path / "r.html", run)
    assert "In other numbers a baseline does reach it: trees (AUROC)." in words(page.all("p", "verdict")[0])


@pytest.mark.slow
def test_a_real_run(trained: TrainOptions, tmp_path: Path) -> None:
    page = page_of(tmp_path / "r.html", trained.cache_dir / "runs" / "demo")
    assert len(page.all("svg")) == 5
    assert "not recorded" in words(page)  # of a command: it was trained from Python
    assert "torch " in words(page)


def test_the_same_run_gives_the_same_bytes(rng: np.random.Generator, tmp_path: Path) -> None:
    runs = [made_result(tmp_path / "run", rng), made_result(tmp_path / "other", rng, task="regression")]
    for name in ("1.html", "2.html"):
        write_report(runs, tmp_path / name)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


# -- honest words


def test_a_baseline_that_is_ahead_comes_first(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng, noise={"model": 0.6, "trees": 0.1})
    page = page_of(tmp_path / "r.html", run)
    (verdict,) = page.all("p", "verdict behind")
    assert words(verdict).startswith("A baseline reaches the model: trees (k-mers or fingerprints, no embeddings) has")
    assert "this split does not show that it learnt more than that" in words(page)
    rows = [words(row).split()[0] for row in page.all("table")[0].all("tr")[1:]]
    assert rows == ["model", "trees"]
    labels = [text.text for text in page.all("svg")[0].all("text", "label")]
    assert labels == ["trees", "model"]


def test_a_baseline_within_the_interval_is_not_told_apart(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng)

    def near(body: dict[str, Any]) -> None:
        body["model"]["mcc"] |= {"mean": 0.7, "ci95": [0.5, 0.8]}
        body["baselines"]["trees"]["mcc"]["mean"] = 0.6

    edit(run / "metrics.json", near)
    assert "this run alone does not tell the two apart" in words(page_of(tmp_path / "r.html", run))
    edit(run / "metrics.json", lambda body: body["baselines"]["trees"]["mcc"].update(mean=0.49))
    assert "does not tell the two apart" not in words(page_of(tmp_path / "r.html", run))


def test_the_papers_protocol_is_called_optimistic_before_its_number(rng: np.random.Generator, tmp_path: Path) -> None:
    page = page_of(tmp_path / "r.html", made_result(tmp_path / "run", rng, protocol="paper", optimistic=True))
    section = page.all("section")[0]
    assert [one.tag for one in section.below[:3]] == ["h2", "p", "p"]
    assert section.below[1].attributes["class"] == "warning"
    assert "OPTIMISTIC" in section.below[1].text
    assert "MCC, optimistic" in words(page)


def test_without_baselines_that_is_said(rng: np.random.Generator, tmp_path: Path) -> None:
    page = page_of(tmp_path / "r.html", made_result(tmp_path / "run", rng, noise={"model": 0.3}))
    assert "No baseline was run beside it" in words(page.all("p", "verdict")[0])


def test_what_is_undefined_is_a_dash_and_has_its_reason(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng, undefined={"1": "all pairs are of one class"})

    def empty(body: dict[str, Any]) -> None:
        body["model"]["mcc"] = {"mean": None, "std": None, "ci95": [None, None], "per_fold": [None] * 3}

    edit(run / "metrics.json", empty)
    page = page_of(tmp_path / "r.html", run)
    assert "MCC of the model is undefined" in words(page)
    assert "all pairs are of one class" in words(page)


def test_a_run_without_leaks_history_and_calibration(rng: np.random.Generator, tmp_path: Path) -> None:
    """Of an early version; what is there is shown."""
    run = made_result(tmp_path / "run", rng)
    edit(run / "metrics.json", lambda body: [body.pop(name) for name in ("leaks", "calibration", "dropped")])
    (run / "history.csv").unlink()
    shutil.rmtree(run / "checkpoints")
    lines = (run / "predictions.tsv").read_text().splitlines()
    (run / "predictions.tsv").write_text("".join("\t".join(line.split("\t")[:6]) + "\n" for line in lines))
    page = page_of(tmp_path / "r.html", run)
    assert len(page.all("svg")) == 3
    assert "has no leak report" in words(page)


# -- hostile and large


def test_hostile_names_are_text(rng: np.random.Generator, tmp_path: Path) -> None:
    group = {"pairs": 3, **{k: v for k, v in _metrics(tmp_path, rng).items() if k in ("model", "baselines")}}
    run = made_result(
        tmp_path / HOSTILE.replace("/", "|"), rng, folds=(HOSTILE, "b" * 5000), dataset=HOSTILE,
        encoders={"a": HOSTILE, "b": HOSTILE}, by={"column": HOSTILE, "groups": {HOSTILE: group, "y" * 9000: group}},
        undefined={HOSTILE: HOSTILE}, split="given",
    )  # fmt: skip
    (run / "provenance.json").write_text(json.dumps({"command": HOSTILE, "packages": {HOSTILE: HOSTILE}}))
    ablation = made_ablation(tmp_path / "abl", rng, [HOSTILE, HOSTILE + "2"])
    page = page_of(tmp_path / "r.html", run, ablation, title=HOSTILE)
    assert page.all("h1")[0].text == plain_line(HOSTILE)  # and no template in a template: {{ }} is text
    assert page.text.count("<script>alert(1)</script>") > 20
    assert all(c.isprintable() or c in "\n\u00a0" for c in page.text)


def _metrics(tmp_path: Path, rng: np.random.Generator) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made_result(tmp_path / "small", rng) / "metrics.json").read_text())
    return found


def test_many_pairs_are_thinned_and_that_is_said(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng, task="regression", pairs=9001)
    page = page_of(tmp_path / "r.html", run)
    assert "Every 5th of 9,001 test pairs is drawn" in words(page)
    assert (tmp_path / "r.html").stat().st_size < 400_000


def test_a_page_has_a_largest_size(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MOST_BYTES", 20_000)
    with pytest.raises(InputError, match="make several pages"):
        write_report([made_result(tmp_path / "run", rng)], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


# -- charts


@pytest.mark.parametrize(
    ("low", "high", "whole", "labels"),
    [
        (0, 1, False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.04, 0.05, False, ["−0.04", "−0.02", "0.00", "0.02", "0.04"]),
        (1, 2, True, ["1", "2"]),
        (1, 40, True, ["10", "20", "30", "40"]),
        (1e-9, 5e-9, False, ["0.000000001", "0.000000002", "0.000000003", "0.000000004", "0.000000005"]),
        (-300, 1200, False, ["0", "500", "1000"]),
    ],
)
def test_ticks(low: float, high: float, whole: bool, labels: list[str]) -> None:
    assert [label for _, label in ticks(low, high, whole=whole)] == labels


def test_no_mark_leaves_its_chart(rng: np.random.Generator) -> None:
    chart = Chart("c", "a title", "what is seen", Axis("x", 0, 1), Axis("y", 0, 1))
    wild = rng.normal(0, 1e6, 50)
    chart.line(wild, wild[::-1], "s0")
    drawn = str(chart.svg()).split('line s0" d="M')[1].split('"')[0]
    places = np.array([place.split() for place in drawn.split("L")], float)
    assert (places >= 0).all()
    assert (places <= [WIDTH, HEIGHT]).all()


def test_svg_plots_are_of_paper_size() -> None:
    figure, _ = new_figure(1)
    text = figure_bytes(figure, "n", "svg").decode()
    assert f'width="{360 * PAPER:g}pt"' in text
    assert 'viewBox="0 0 360 324"' in text
    assert 88 < 360 * PAPER / 72 * 25.4 < 90, "a column of 89 mm"


# -- provenance


def test_every_encoder_has_a_licence_that_a_card_finds() -> None:
    for (_, name), info in ENCODERS.items():
        assert licence_of(name) == info.licence
    assert licence_of("mine") is None


def test_provenance_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/train", "--cache", "my cache"])
    record_provenance(tmp_path)
    found = read_provenance(tmp_path)
    assert found["command"] == "train --cache 'my cache'"
    assert {"torch", "numpy"} <= found["packages"].keys()
    monkeypatch.setattr("sys.argv", ["train", "--resume"])
    record_provenance(tmp_path)
    assert read_provenance(tmp_path) == found
    monkeypatch.setattr("sys.argv", ["/usr/bin/python"])
    (tmp_path / "provenance.json").unlink()
    record_provenance(tmp_path)
    assert read_provenance(tmp_path)["command"] is None


@pytest.mark.parametrize("packed", [False, True])
def test_the_commit_of_a_checkout(packed: bool, tmp_path: Path) -> None:
    assert checkout_commit(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    if packed:
        (git / "packed-refs").write_text(f"# pack-refs\n{'b' * 40} refs/heads/main2\n{'c' * 40} refs/heads/main\n")
    else:
        (git / "refs" / "heads" / "main").write_text("c" * 40 + "\n")
    assert checkout_commit(tmp_path) == "c" * 40
    (git / "HEAD").write_text("d" * 40 + "\n")
    assert checkout_commit(tmp_path) == "d" * 40
    (git / "HEAD").write_text("ref: refs/heads/none\n")
    assert checkout_commit(tmp_path) is None


# -- bad use


def unfinished(run: Path) -> None:
    (run / "metrics.json").unlink()


def half_metrics(run: Path) -> None:
    text = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(text[: len(text) // 2])


def other_metrics(run: Path) -> None:
    (run / "metrics.json").write_text('{"task": "classification", "model": 3}')


def odd_baseline(run: Path) -> None:
    edit(run / "metrics.json", lambda body: body["baselines"].update({"../../x": body["baselines"]["trees"]}))


def no_predictions(run: Path) -> None:
    (run / "predictions.tsv").unlink()


def a_word_for_a_number(run: Path) -> None:
    path = run / "predictions.tsv"
    path.write_text(path.read_text().replace("\t1\t0\t", "\tone\t0\t", 1))


def bad_history(run: Path) -> None:
    (run / "history.csv").write_text("fold,epoch,train_loss,validation_loss\n0,1,nan,1\n")


def bad_config(run: Path) -> None:
    (run / "config.toml").write_text("[train\n")


def a_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("")


BAD_RUNS: dict[Callable[[Path], None], tuple[int, str]] = {
    shutil.rmtree: (2, "holds no run"),
    a_file: (2, "holds no run"),
    unfinished: (2, "this run is not finished; go on with `train --resume`"),
    half_metrics: (3, "metrics.json"),
    other_metrics: (3, "metrics.json"),
    odd_baseline: (3, "a baseline's name is no name"),
    no_predictions: (3, "predictions.tsv: missing"),
    a_word_for_a_number: (3, "no table of predictions"),
    bad_history: (3, "history.csv:2: nan where a number is expected"),
    bad_config: (3, "config.toml"),
}


@pytest.mark.parametrize("damage", BAD_RUNS, ids=lambda damage: damage.__name__)
def test_a_bad_run_is_one_line(
    damage: Callable[[Path], None], rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, say = BAD_RUNS[damage]
    run = made_result(tmp_path / "run", rng)
    damage(run)
    assert runner._run(crossllm, ["report", str(run), "--out", str(tmp_path / "r.html")]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert say in line
    assert not list(tmp_path.glob("*.html")) + list(tmp_path.glob(".tmp-*"))


def test_an_ablation_that_is_not_finished_or_damaged(rng: np.random.Generator, tmp_path: Path) -> None:
    folder = made_ablation(tmp_path / "abl", rng, ["a", "b"])
    edit(folder / "ablation.json", lambda body: body["rows"][1].pop("metrics"))
    with pytest.raises(CacheCorrupt, match="KeyError 'metrics' in its files"):
        write_report([folder], tmp_path / "r.html")
    edit(folder / "ablation.json", lambda body: body.update(rows=[]))
    with pytest.raises(CacheCorrupt, match="again"):
        write_report([folder], tmp_path / "r.html")
    (folder / "ablation.json").unlink()
    with pytest.raises(InputError, match="this ablation is not finished"):
        write_report([folder], tmp_path / "r.html")


def test_where_the_page_goes(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng)
    with pytest.raises(InputError, match="no such folder; make it"):
        write_report([run], tmp_path / "none" / "r.html")
    with pytest.raises(InputError, match="is a folder"):
        write_report([run], tmp_path)
    (tmp_path / "thesis.html").write_text("<html>")
    with pytest.raises(Conflict, match="is there and is no report"):
        write_report([run], tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "<html>"
    write_report([run], tmp_path / "r.html")
    write_report([run], tmp_path / "r.html", title="again")
    assert "again" in (tmp_path / "r.html").read_text()


def test_a_run_named_twice_or_not_at_all(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_result(tmp_path / "run", rng)
    with pytest.raises(InputError, match="is named twice"):
        write_report([run, tmp_path / "run" / ".." / "run"], tmp_path / "r.html")
    with pytest.raises(InputError, match="no run is named"):
        write_report([], tmp_path / "r.html")


def test_the_command(rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_result(tmp_path / "run", rng)
    out = tmp_path / "r.html"
    assert runner._run(crossllm, ["report", str(run), "-o", str(out), "--title", "Mine"]) == 0
    said = capsys.readouterr().out
    assert str(out) in said
    assert read_page(out).all("h1")[0].text == "Mine"
    assert runner._run(crossllm, ["report", str(run)]) == 2
    assert runner._run(crossllm, ["report", "--out", str(out)]) == 2


def test_folds_are_taken_by_name() -> None:
    """A fold without a test pair has no curve, and is none of those that are averaged."""
    from crossllm.pipeline.page.predictions import Tested

    fold = np.array(["b", "a", "b"])
    tested = Tested((3, 3), fold, np.array([1, 0, 0]), np.array([0.3, 0.2, 0.1]), np.array([1, 0, 0]), {})
    found = tested.folds(["a", "b", "c"])
    assert [len(one.label) for one in found] == [1, 2]
    assert isinstance(found[0], Scored)
