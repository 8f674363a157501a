"""`crossllm compare`: differences of runs on the pairs that both tested, held to plain formulas and to scipy's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
from conftest import Program
from scipy import stats

from crossllm.cache import CacheCorrupt, InputError
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.comparison import Folds, Unit, mcnemar, paired_bootstrap, wilcoxon
from crossllm.pipeline.evaluation.metrics import Partners, Scored
from crossllm.pipeline.evaluation.table import WIDTH
from crossllm.pipeline.experiments.compare import Comparison, compare
from crossllm.pipeline.experiments.compare_table import comparison_plot, comparison_text
from crossllm.pipeline.training.inputs import TrainOptions

Row = tuple[str, str, float, str, float, float]
"""a_id, b_id, label, fold, score, predicted."""


def made_run(
    folder: Path,
    rows: Iterable[Row],
    *,
    seed: int = 0,
    dataset: str = "d",
    split: str = "s",
    task: Task = "classification",
    recipes: tuple[str, str] = ("x", "y"),
    **metrics: object,
) -> Path:
    """What `compare` reads of a finished run."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'[dataset]\ndigest = "{dataset}"\nsplit_digest = "{split}"\n[train]\nseed = {seed}\n'
        f'[recipe]\na = "{recipes[0]}"\nb = "{recipes[1]}"\n'
    )
    (folder / "metrics.json").write_text(
        json.dumps({"task": task, "dataset": dataset, "ids_are_sequences": True, **metrics})
    )
    lines = ["a_id\tb_id\tlabel\tfold\tscore\tpredicted", *("\t".join(map(str, row)) for row in rows)]
    (folder / "predictions.tsv").write_text("\n".join(lines) + "\n")
    return folder


def random_rows(rng: np.random.Generator, count: int = 60, folds: int = 2) -> list[Row]:
    """Distinct pairs of 12 × 10 ids, scores a little better than chance."""
    places = rng.permutation(120)[:count]
    label = rng.integers(0, 2, count)
    score = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    return [
        (f"a{place // 10}", f"b{place % 10}", int(y), str(n % folds), float(s), int(s >= 0.5))
        for n, (place, y, s) in enumerate(zip(places.tolist(), label.tolist(), score.tolist(), strict=True))
    ]


def with_scores(rng: np.random.Generator, rows: list[Row]) -> list[Row]:
    """The same pairs by another model."""
    found = []
    for a, b, label, fold, _, _ in rows:
        score = float(np.clip(rng.normal(0.45 + 0.1 * label, 0.2), 0, 1))
        found.append((a, b, label, fold, score, int(score >= 0.5)))
    return found


def only(comparisons: list[Comparison]) -> Comparison:
    (found,) = comparisons
    return found


def test_a_run_against_itself_has_no_difference_and_p_1(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", random_rows(rng))
    found = only(compare([run, run]))
    for metric in found.metrics.values():
        assert (metric.difference, metric.ci95, metric.p) == (0, (0, 0), 1)
    assert (found.test.first_better, found.test.second_better, found.test.p) == (0, 0, 1)
    assert found.remarks == ["the run is the reference itself"]
    assert found.pairs == 60


def test_the_bootstrap_is_that_of_pairs_repeated_as_often_as_both_sequences_were_drawn(
    rng: np.random.Generator,
) -> None:
    """By hand: each id drawn with replacement, a pair repeated, scikit-learn's metric of each fold."""
    rows = random_rows(rng, 80)
    other = with_scores(rng, rows)
    numbers = [{name: n for n, name in enumerate(dict.fromkeys(row[side] for row in rows))} for side in (0, 1)]

    def folds(chosen: list[Row]) -> tuple[Folds, list[np.ndarray]]:
        scored, partners = [], []
        for fold in "01":
            own = [row for row in chosen if row[3] == fold]
            scored.append(Scored(*(np.array([row[n] for row in own]) for n in (2, 4, 5))))
            partners.append(Partners(*(np.array([numbers[side][row[side]] for row in own]) for side in (0, 1))))
        return Folds(scored, partners), [np.stack(found[:2]) for found in partners]

    first, places = folds(rows)
    second, _ = folds(other)
    found = paired_bootstrap("classification", [Unit(first, second)], seed=5, replicates=40)
    again = np.random.default_rng(5)
    drawn = [again.multinomial(len(n), np.full(len(n), 1 / len(n)), size=40) for n in numbers]
    differences = []
    for r in range(40):
        means = []
        for side in (first, second):
            values = []
            for scored, (a, b) in zip(side.scored, places, strict=True):
                times = drawn[0][r, a] * drawn[1][r, b]
                label, score = np.repeat(scored.label, times), np.repeat(scored.score, times)
                if len(set(label.tolist())) == 2:
                    values.append(sk.roc_auc_score(label, score))
            means.append(np.mean(values))
        differences.append(means[1] - means[0])
    auroc = found["auroc"]
    point = [np.mean([sk.roc_auc_score(f.label, f.score) for f in side.scored]) for side in (first, second)]
    assert (auroc.first, auroc.second) == pytest.approx(tuple(point))
    assert auroc.difference == pytest.approx(point[1] - point[0])
    assert auroc.ci95 == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))
    tail = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert auroc.p == pytest.approx(min(1, 2 * (tail + 1) / 41))


def test_a_known_difference_is_found(tmp_path: Path, rng: np.random.Generator) -> None:
    """A reference that guesses against a run that is always right."""
    rows = [(a, b, y, fold, y * 1.0, y) for a, b, y, fold, _, _ in random_rows(rng, 100)]
    guessed = [(a, b, y, fold, s, int(s >= 0.5)) for (a, b, y, fold, _, _), s in zip(rows, rng.random(100).tolist(),
                                                                                     strict=True)]  # fmt: skip
    found = only(compare([made_run(tmp_path / "guess", guessed), made_run(tmp_path / "right", rows)]))
    wrong = sum(row[2] != row[5] for row in guessed)
    assert (found.test.first_better, found.test.second_better) == (0, wrong)
    assert found.test.p == pytest.approx(stats.binomtest(0, wrong, 0.5).pvalue)
    assert found.metrics["accuracy"].second == 1
    mcc = found.metrics["mcc"]
    assert mcc.ci95 is not None
    assert mcc.ci95[0] > 0
    assert mcc.p == pytest.approx(2 / 1001)


def test_mcnemar_is_the_exact_test_of_the_discordant_pairs() -> None:
    first, second = np.array([1] * 9 + [0] * 3 + [1] * 50), np.array([0] * 9 + [1] * 3 + [1] * 50)
    found = mcnemar(first, second)
    assert (found.pairs, found.first_better, found.second_better) == (62, 9, 3)
    assert found.p == pytest.approx(2 * sum(stats.binom.pmf(k, 12, 0.5) for k in range(4)))
    assert found.p == pytest.approx(0.14599609375)
    several = mcnemar(np.array([3, 2, 0]), np.array([2, 2, 3]))
    assert (several.first_better, several.second_better, several.p) == (1, 1, 1)


def test_wilcoxon_is_scipys_and_equal_errors_are_no_difference(rng: np.random.Generator) -> None:
    first, second = np.abs(rng.normal(size=40)), np.abs(rng.normal(0.5, 1, size=40))
    found = wilcoxon(first, second)
    assert found.p == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert found.first_better == int((second > first).sum())
    assert wilcoxon(first, first).p == 1


def test_regressions_are_compared_by_their_errors(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = [(a, b, float(v), f, float(v + e), float(v + e)) for (a, b, _, f, _, _), v, e in
            zip(random_rows(rng), rng.normal(6, 1, 60), rng.normal(0, 0.5, 60), strict=True)]  # fmt: skip
    other = [(a, b, v, f, v + 2 * (s - v), v + 2 * (s - v)) for a, b, v, f, s, _ in rows]
    found = only(compare([made_run(tmp_path / "1", rows, task="regression"),
                          made_run(tmp_path / "2", other, task="regression")]))  # fmt: skip
    rmse = found.metrics["rmse"]
    assert rmse.second == pytest.approx(2 * (rmse.first or 0))
    assert (found.test.name, found.test.first_better, found.test.second_better) == ("Wilcoxon signed-rank", 60, 0)
    errors = np.array([abs(row[4] - row[2]) for row in rows])
    assert found.test.p == pytest.approx(stats.wilcoxon(errors, 2 * errors).pvalue)
    assert "nearer in the reference 60, in the run 0" in comparison_text([found])


def test_what_differs_is_said_and_only_what_both_tested_is_compared(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = random_rows(rng)
    other = with_scores(rng, rows)
    other[0] = (*other[0][:2], 1 - other[0][2], *other[0][3:])
    other[1] = (*other[1][:3], "1" if other[1][3] == "0" else "0", *other[1][4:])
    other = [*other[:50], ("new", "b0", 1, "0", 0.5, 1)]
    runs = [made_run(tmp_path / "1", rows), made_run(tmp_path / "2", other, dataset="e", split="t", optimistic=True)]
    found = only(compare(runs))
    assert found.pairs == 49
    assert found.remarks == [
        "the datasets differ (d, e): compared are the pairs tested in both",
        "tested in the reference alone and left out: 10 pairs, in the run alone: 1; so the numbers are not those of "
        "the runs' own tables",
        "pairs with another label in the other run, left out: 1",
        "pairs in a fold of another name in the other run: 1 of 49",
        "the run's numbers are optimistic (--protocol paper)",
    ]
    text = comparison_text([found])
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= WIDTH
    other_split = made_run(tmp_path / "3", rows, split="t", ids_are_sequences=False)
    assert only(compare([runs[0], other_split])).remarks == [
        "the splits differ: a pair that both tested was predicted by models that saw other training pairs",
        "several ids have one sequence; the bootstrap draws ids, so the intervals are too narrow",
    ]


def test_ids_are_the_same_on_both_sides_where_both_have_one_recipe(rng: np.random.Generator, tmp_path: Path) -> None:
    """Pairs (x, y) and (y, x) of one modality depend on the same two draws."""
    rows = [(f"p{a[1:]}", f"p{b[1:]}", *rest) for a, b, *rest in random_rows(rng)]
    other = with_scores(rng, rows)  # type: ignore[arg-type]
    found = {}
    for name, recipes in (("one", ("x", "x")), ("two", ("x", "y"))):
        runs = [made_run(tmp_path / name / str(n), r, recipes=recipes) for n, r in enumerate((rows, other))]  # type: ignore[arg-type]
        found[name] = only(compare(runs)).metrics["auroc"]
    assert found["one"].difference == found["two"].difference
    assert found["one"].ci95 != found["two"].ci95


def seeds_run(folder: Path, runs: dict[int, list[Row]]) -> Path:
    for seed, rows in runs.items():
        made_run(folder / f"seed-{seed}", rows, seed=seed)
    (folder / "config.toml").write_text(f"[seeds]\nfirst = {min(runs)}\ncount = {len(runs)}\n")
    return folder


def test_several_seeds_are_compared_seed_by_seed(rng: np.random.Generator, tmp_path: Path) -> None:
    first = {seed: random_rows(rng) for seed in (0, 1)}
    second = {seed: with_scores(rng, first[seed]) for seed in (0, 1)} | {2: random_rows(rng)}
    found = only(compare([seeds_run(tmp_path / "1", first), seeds_run(tmp_path / "2", second)]))
    assert found.seeds == [(0, 0), (1, 1)]
    assert found.remarks[0] == "left out because one of the two lacks the seed: 1"
    each = [only(compare([tmp_path / "1" / f"seed-{n}", tmp_path / "2" / f"seed-{n}"])) for n in (0, 1)]
    for name, metric in found.metrics.items():
        assert metric.difference == pytest.approx(np.mean([one.metrics[name].difference for one in each]))
    assert found.pairs == len({row[:2] for rows in first.values() for row in rows})
    apart = only(compare([tmp_path / "1", tmp_path / "2" / "seed-2"]))
    assert apart.seeds == [(0, 2)]
    assert apart.remarks[0] == "no seed in common; compared in their order: 0 with 2"


def damaged(folder: Path, change: Callable[[Path], object]) -> Path:
    made_run(folder, [("a", "b", 1, "0", 0.5, 1), ("c", "d", 0, "0", 0.5, 1)])
    change(folder)
    return folder


def test_what_cannot_be_compared_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", random_rows(rng))
    with pytest.raises(InputError, match="holds no run"):
        compare([run, tmp_path])
    nothing = made_run(tmp_path / "nothing", [("x", "y", 1, "0", 0.5, 1)])
    with pytest.raises(InputError, match=r"no pair of its predictions\.tsv is tested in"):
        compare([run, nothing])
    with pytest.raises(InputError, match="its task is regression"):
        compare([run, made_run(tmp_path / "r", random_rows(rng), task="regression")])
    with pytest.raises(InputError, match="is not finished"):
        compare([run, damaged(tmp_path / "0", lambda folder: (folder / "metrics.json").unlink())])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "predictions.tsv").unlink(), "missing, though its run is finished"),
        (lambda folder: (folder / "predictions.tsv").write_text("a_id\tb_id\nx\ty\n"), r"predictions\.tsv:2: 'label'"),
        (lambda folder: (folder / "predictions.tsv").write_bytes(b"\xff\xfe"), "codec"),
        (
            lambda folder: (folder / "predictions.tsv").write_text(
                "a_id\tb_id\tlabel\tfold\tscore\tpredicted\nx\ty\t1\t0\tnan\t1\n"
            ),
            "not finite",
        ),
        (
            lambda folder: (folder / "predictions.tsv").write_text(
                "a_id\tb_id\tlabel\tfold\tscore\tpredicted\n" + "x\ty\t1\t0\t1\t1\n" * 2
            ),
            "x and y stand there twice",
        ),
        (lambda folder: (folder / "config.toml").write_text("dataset = 3"), "config"),
        (lambda folder: (folder / "metrics.json").write_text('{"task": "guess"}'), "task 'guess'"),
    ],
)
def test_a_damaged_run_is_named(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    with pytest.raises(CacheCorrupt, match=said):
        compare([damaged(tmp_path / "run", change)] * 2)


@pytest.mark.slow
def test_the_plot_is_a_file_of_each_kind(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = random_rows(rng)
    runs = [made_run(tmp_path / "1", rows), made_run(tmp_path / "$2_", with_scores(rng, rows))]
    found = compare(runs)
    assert comparison_plot(found, "png").startswith(b"\x89PNG")
    assert comparison_plot(found, "pdf").startswith(b"%PDF")
    assert comparison_plot(found, "svg") == comparison_plot(found, "svg")
    assert b"95 % interval" in comparison_plot(found, "svg")
    assert b"optimistic" not in comparison_plot(found, "svg")
    paper = made_run(tmp_path / "paper", rows, optimistic=True)
    svg = comparison_plot(compare([runs[0], paper]), "svg").decode()
    assert re.search("optimistic: .*/paper", svg)
    assert b"the reference (optimistic)" in comparison_plot(compare([paper, runs[0]]), "svg")


def test_the_program_compares_real_runs(trained: TrainOptions, program: Program) -> None:
    run = trained.cache_dir / "runs" / "demo"
    done = program("crossllm", "compare", run, run, "--plot", "plots/difference.svg")
    assert done.returncode == 0, done.stderr
    assert "160 test pairs in both" in done.stdout
    found = json.loads(program("crossllm", "compare", run, run, "--json").stdout)
    table = json.loads((run / "metrics.json").read_text())["model"]
    for name, metric in found[0]["metrics"].items():
        assert metric["reference"] == pytest.approx(table[name]["mean"], abs=1e-6), "as the run's own table has it"
        assert metric["p"] == 1
    for arguments in ([run], [run, run, "--plot", "x.txt"], [run, "nowhere"], []):
        bad = program("crossllm", "compare", *arguments)
        assert (bad.returncode, bad.stderr.count("\n")) == (2, 1), bad.stderr
