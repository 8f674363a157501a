"""`crossllm ablate`: the grid, rows as processes, killed and gone on with, the table against the runs' own numbers."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from conftest import Program
from forked_rows import forked_child
from zygote import Child, Zygote

from crossllm.cache import Conflict, InputError
from crossllm.cache.files import fsio
from crossllm.pipeline.evaluation.table import WIDTH
from crossllm.pipeline.experiments import row_processes
from crossllm.pipeline.experiments.ablation import Ablation, AblationOptions, ablate
from crossllm.pipeline.experiments.ablation_table import ablation_table, hit_report
from crossllm.pipeline.experiments.compare import compare
from crossllm.pipeline.experiments.grid import Row, plan_rows
from crossllm.pipeline.experiments.row_processes import Task, run_tasks
from crossllm.pipeline.splits.split_file import split_text
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs

SETS = ("folds=2", "epochs=2", "d_model=8", "d_state=4", "tokens=pooled")
GRIDS = ("fusion=cross_mamba,concat", "order=ab,both")
"""Of the four combinations, concat with order=both contradicts itself."""


def planned(*grids: str, sets: tuple[str, ...] = (), one_at_a_time: bool = False) -> list[Row]:
    return plan_rows(grids, None, sets, one_at_a_time=one_at_a_time)[1]


# -- the grid


def test_the_full_product_begins_with_the_first_values() -> None:
    rows = planned("fusion=cross_mamba,concat", "noise=0,0.1,0.2")
    assert [tuple(row.settings.values()) for row in rows] == [
        ("cross_mamba", "0"), ("cross_mamba", "0.1"), ("cross_mamba", "0.2"),
        ("concat", "0"), ("concat", "0.1"), ("concat", "0.2"),
    ]  # fmt: skip
    assert rows[0].changed == {}
    assert rows[0].label == "fusion=cross_mamba, noise=0"
    assert rows[4].label == "fusion=concat, noise=0.1"
    assert rows[1].label == "noise=0.1"


def test_one_at_a_time_changes_one_field_a_row() -> None:
    rows = planned("fusion=cross_mamba,concat", "noise=0,0.1", "loss=focal,bce", one_at_a_time=True)
    assert [row.changed for row in rows] == [{}, {"fusion": "concat"}, {"noise": "0.1"}, {"loss": "bce"}]


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        planned(
            "fuson=concat",
            "noise=2,x,-1",
            "noise=1",
            "lr=0.1,.1",
            "clip",
            "clip=1,",
            sets=("epochs=0", "model.noise=1"),
        )
    assert list(error.value.lines) == [
        "--set epochs: 0 is out of range; 1 to 1e+06 is expected",
        "--grid fuson: is not a setting of train; did you mean 'fusion'?",
        "--grid noise=2,x,-1: noise is in --set too; leave it out there",
        "--grid noise: 'x' is no such value; a number is expected",
        "--grid noise: -1.0 is out of range; 0 to 1000 is expected",
        "--grid noise=1: noise is in another --grid already; write all of its values there",
        "--grid lr=0.1,.1: '.1' is '0.1' again",
        "--grid clip: is not FIELD=VALUE,VALUE",
        "--grid clip=1,: is not FIELD=VALUE,VALUE",
    ]


def test_a_combination_that_contradicts_itself_is_a_row_with_a_problem() -> None:
    rows = planned(*GRIDS)
    assert [row.problem is None for row in rows] == [True, True, True, False]
    assert "concat has no such thing" in str(rows[3].problem)
    with pytest.raises(InputError, match=r"the first row, .* order both: concat has no such thing"):
        planned("fusion=concat", "order=both,ab")
    with pytest.raises(InputError, match="none is given"):
        planned()
    with pytest.raises(InputError, match="1010 rows; at most 1000"):
        planned("seed=" + ",".join(map(str, range(101))), "epochs=" + ",".join(map(str, range(1, 11))))


def test_a_split_from_a_file_needs_the_file() -> None:
    assert planned("split=random,file")[1].problem == "split file: --split-file is missing"
    with pytest.raises(InputError, match=r"the first row.*--split-file is missing"):
        planned("lr=0.1,0.2", sets=("split=file",))
    base, rows = plan_rows(["lr=0.1,0.2"], None, (), one_at_a_time=False, split_file=True)
    assert base.split == "file"
    assert [row.problem for row in rows] == [None, None]
    for grids, sets in ((["split=random,given"], ()), (["lr=1,0.1"], ("train.split=random",))):
        with pytest.raises(InputError, match="--split-file: is the split of all rows"):
            plan_rows(grids, None, sets, one_at_a_time=False, split_file=True)


def test_the_name_of_a_row_is_one_of_a_file() -> None:
    plain, colon, path = planned("tokens=residue,window:2,../../x")[:2] + planned("fold_column=../../x")
    assert plain.name == "tokens=residue"
    assert colon.name.startswith("tokens=window-2-")
    assert "/" not in path.name
    long = planned("fold_column=" + "x" * 300 + "," + "x" * 299 + "y")
    assert long[0].name != long[1].name
    assert max(len(row.name) for row in long) < 120


# -- rows as processes


@pytest.fixture
def forked(programs: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that this process starts have their modules imported; those of a program are as a user's."""
    monkeypatch.setattr(row_processes, "start_child", forked_child(programs))


@pytest.fixture(scope="module")
def options(_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> AblationOptions:
    cache = shutil.copytree(_demo, tmp_path_factory.mktemp("ablate") / "demo")
    return AblationOptions(cache, GRIDS, sets=SETS, jobs=2)


@pytest.fixture(scope="module")
def whole(options: AblationOptions, programs: Zygote) -> Ablation:
    """Finished; only ever copied.  The first row is a process as a user's, the others are forked."""
    starts = iter([row_processes.start_child])
    forked = forked_child(programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_processes, "start_child", lambda *asked, **how: next(starts, forked)(*asked, **how))
        return ablate(options)


@pytest.fixture(scope="module")
def seeded(
    options: AblationOptions, programs: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ablation, AblationOptions]:
    """Two seeds of two rows, the second by the paper's protocol; and how it was asked for."""
    out = tmp_path_factory.mktemp("seeded") / "out"
    asked = dataclasses.replace(options, grids=["protocol=honest,paper"], out=out, seeds=2, baselines="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_processes, "start_child", forked_child(programs))
        return ablate(asked), asked


@pytest.mark.slow
def test_a_row_by_the_papers_protocol_is_called_optimistic(seeded: tuple[Ablation, AblationOptions]) -> None:
    done, _ = seeded
    assert [row["optimistic"] for row in table(done.folder)] == ["no", "yes"]
    text = ablation_table(done.report)
    assert "protocol=paper (optimistic)" in text
    assert "first row (optimistic)" not in text
    assert "OPTIMISTIC (--protocol paper)" in text
    assert "optimistic: protocol=paper" in (done.folder / "ablation.svg").read_text()
    seeds = [(done.folder / "rows" / row["folder"] / "seeds.svg").read_text() for row in table(done.folder)]
    assert ["model optimistic" in svg for svg in seeds] == [False, True]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "ablation.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.slow
def test_every_row_is_an_ordinary_run_and_the_table_has_its_numbers(whole: Ablation, options: AblationOptions) -> None:
    assert whole.folder == options.cache_dir / "ablations" / "fusion-order"
    assert whole.failed == 1
    first, both, concat, bad = table(whole.folder)
    assert [row["fusion"] for row in (first, both, concat, bad)] == ["cross_mamba"] * 2 + ["concat"] * 2
    for row in (first, both, concat):
        metrics = json.loads((whole.folder / "rows" / row["folder"] / "metrics.json").read_text())
        assert float(row["mcc"]) == metrics["model"]["mcc"]["mean"]
        assert float(row["mcc_std_over_folds"]) == metrics["model"]["mcc"]["std"]
        assert int(row["parameters"]) == sum(metrics["parameters"].values())
    compared = compare([whole.folder / "rows" / row["folder"] for row in (first, both, concat)])
    for row, found in zip((both, concat), compared, strict=True):
        assert float(row["difference"]) == found.metrics["mcc"].difference
        assert float(row["p"]) == found.metrics["mcc"].p
        assert float(row["pair_test_p"]) == found.test.p
    assert first["difference"] == ""
    assert (bad["mcc"], bad["problem"].split(";")[0]) == (
        "", "order both: concat has no such thing, cross_mamba alone has"
    )  # fmt: skip
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {".lock", "ablation.toml", "ablation.tsv", "ablation.json", "ablation.png", "ablation.svg",
                     "rows", "logs"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("forked", "undrawn")
def test_all_rows_take_the_split_of_one_file_and_quiet_says_little(
    small: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = open_inputs(dataclasses.replace(small, config=dataclasses.replace(small.config, seed=7)))
    cut = tmp_path / "cut.tsv"
    cut.write_text(split_text(inputs.dataset, inputs.folds))
    sets = ("epochs=1", "d_model=8", "d_state=4")
    asked = AblationOptions(
        small.cache_dir, ["lr=0.01,0.02"], sets=sets, jobs=2, split_file=cut, quiet=True, baselines="none"
    )
    capsys.readouterr()
    done = ablate(asked)
    assert done.failed == 0
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(("row ", "note: comparing"))] == []
    for row in table(done.folder):
        assert (done.folder / "rows" / row["folder"] / "splits.tsv").read_bytes() == cut.read_bytes()
    cut.write_text(split_text(inputs.dataset, inputs.folds) + "\n")
    with pytest.raises(Conflict, match="split_file"):
        ablate(asked)


@pytest.mark.slow
def test_the_printed_table_and_the_hit_report(whole: Ablation) -> None:
    text = ablation_table(whole.report)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.splitlines()[0] == "first row: fusion=cross_mamba, order=ab"
    assert "fusion=concat, order=both: failed" in text
    assert whole.report.results[0].metrics is not None
    best = max(found["mcc"]["mean"] for found in whole.report.results[0].metrics["baselines"].values())
    assert re.search(rf"baselines beside the first row, MCC: \w+ {best:.3f}", text)
    first, *forked = (found.usage for found in whole.report.results[:3])
    assert first.rows_read > 0
    assert all(found.rows_read > 0 for found in forked)
    assert whole.report.results[3].usage.rows_read == 0
    alone = hit_report(whole.report._replace(usage=first))
    assert alone.startswith(f"rows read from the cache: {first.rows_read:,}; encoders loaded: 0;")
    loaded = sorted({name for found in forked for name in found.encoders})
    assert "crossllm.embed.encoders.esm2" in loaded, "a forked row has all modules, and that is what the report is for"
    assert f"encoders loaded: {len(loaded)}\n({loaded[0]}, " in hit_report(whole.report)
    held = json.loads((whole.folder / "ablation.json").read_text())
    assert held["usage"]["rows_read"] == first.rows_read + sum(found.rows_read for found in forked)
    assert held["usage"]["encoders"] == loaded


def in_a_copy(whole: Ablation, options: AblationOptions, where: Path, *unfinished: str) -> list[str]:
    """A copy of the finished ablation without these rows; the command that goes on with it."""
    shutil.copytree(whole.folder, where)
    for name in unfinished:
        shutil.rmtree(where / "rows" / name)
    for path in where.glob("ablation.[!t]*"):
        path.unlink()
    (where / "ablation.tsv").unlink()
    flags = [word for grid in GRIDS for word in ("--grid", grid)] + [word for s in SETS for word in ("--set", s)]
    return ["ablate", "--cache", str(options.cache_dir), *flags, "--out", str(where), "--jobs", "2"]


def until(path: Path, process: Child) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_in_the_middle_and_gone_on_with_it_gives_the_same_table(
    whole: Ablation, options: AblationOptions, programs: Zygote, number: signal.Signals, tmp_path: Path
) -> None:
    rows = ("fusion=cross_mamba,order=both", "fusion=concat,order=ab")
    command = in_a_copy(whole, options, tmp_path / "out", *rows)
    with open(tmp_path / "said.txt", "wb") as said, open(os.devnull, "rb") as nothing:
        process = programs.start("crossllm", command, (nothing, said, said), cwd=tmp_path)
    until(tmp_path / "out" / "rows" / rows[1] / ".lock", process)
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    code = process.wait(60)
    if number == signal.SIGTERM:
        assert code == 143
        assert "the same command goes on" in (tmp_path / "said.txt").read_text()
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=20)[1] == [], "no child outlives its parent"
    assert not (tmp_path / "out" / "ablation.tsv").exists()
    before = (tmp_path / "out" / "rows" / "fusion=cross_mamba,order=ab" / "metrics.json").stat().st_mtime_ns
    again = ablate(dataclasses.replace(options, out=tmp_path / "out"))
    assert (tmp_path / "out" / "ablation.tsv").read_bytes() == (whole.folder / "ablation.tsv").read_bytes()
    assert ablation_table(again.report) == ablation_table(whole.report)
    after = (tmp_path / "out" / "rows" / "fusion=cross_mamba,order=ab" / "metrics.json").stat().st_mtime_ns
    assert after == before, "a finished row is kept"


@pytest.mark.slow
def test_a_row_that_fails_while_it_runs_is_reported_and_the_others_stand(
    whole: Ablation, options: AblationOptions, program: Program, tmp_path: Path
) -> None:
    command = in_a_copy(whole, options, tmp_path / "out", "fusion=concat,order=ab")
    (tmp_path / "out" / "rows" / "fusion=concat,order=ab").mkdir()
    (tmp_path / "out" / "rows" / "fusion=concat,order=ab" / "mine.txt").touch()
    done = program("crossllm", *command)
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 4 rows failed;")
    assert "fusion=concat: failed: " in done.stdout
    assert table(tmp_path / "out")[2]["problem"].endswith("is not empty and holds no run; name another folder by --out")
    assert table(tmp_path / "out")[1] == table(whole.folder)[1]


@pytest.mark.slow
def test_with_seeds_every_row_is_a_folder_of_seeds(seeded: tuple[Ablation, AblationOptions]) -> None:
    done, asked = seeded
    kept = []
    for row in table(done.folder):
        path = done.folder / "rows" / row["folder"] / "metrics.json"
        metrics = json.loads(path.read_text())
        assert metrics["seeds"] == [0, 1]
        assert float(row["mcc"]) == metrics["model"]["mcc"]["mean"]
        assert float(row["mcc_std_over_seeds"]) == metrics["model"]["mcc"]["std_over_seeds"]
        kept.append((path, path.stat().st_mtime_ns))
    assert json.loads((done.folder / "ablation.json").read_text())["rows"][1]["comparison"]["seeds"] == [[0, 0], [1, 1]]
    before = (done.folder / "ablation.tsv").read_bytes()
    assert ablate(asked).failed == 0
    assert (done.folder / "ablation.tsv").read_bytes() == before
    assert [(path, path.stat().st_mtime_ns) for path, _ in kept] == kept, "finished rows are kept"


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_more_values_are_more_rows_beside_the_finished_ones(
    whole: Ablation, options: AblationOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.folder, tmp_path / "out")
    grids = ("fusion=cross_mamba,concat,gated", GRIDS[1])
    more = ablate(dataclasses.replace(options, grids=grids, baselines=None, out=tmp_path / "out"))
    rows = table(tmp_path / "out")
    assert [(row["fusion"], row["problem"] == "") for row in rows] == [
        ("cross_mamba", True), ("cross_mamba", True), ("concat", True), ("concat", False), ("gated", True),
        ("gated", False),
    ]  # fmt: skip
    assert rows[:3] == table(whole.folder)[:3]
    assert more.failed == 2
    assert "of other values" not in capsys.readouterr().err
    ablate(dataclasses.replace(options, grids=(grids[0].replace(",gated", ""), GRIDS[1]), out=tmp_path / "out"))
    assert "1 finished rows of other values are not in the table: " in capsys.readouterr().err
    assert len(table(tmp_path / "out")) == 4


@pytest.mark.slow
def test_another_ablation_in_the_folder_is_refused(whole: Ablation, options: AblationOptions, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=r"train\.epochs \(3, there 2\)"):
        ablate(dataclasses.replace(options, sets=("epochs=3", *SETS[2:], "folds=2")))
    with pytest.raises(Conflict, match=r"ablation\.seeds \(2, there 1\)"):
        ablate(dataclasses.replace(options, seeds=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(Conflict, match="is not empty and holds no ablation"):
        ablate(dataclasses.replace(options, out=tmp_path / "mine"))
    lock = fsio.Lock(whole.folder / ".lock")
    with pytest.raises(Conflict, match="another ablation is at work in it"):
        ablate(options)
    lock.close()


@pytest.mark.slow
def test_what_is_missing_is_said_before_a_row_begins(options: AblationOptions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset here"):
        ablate(dataclasses.replace(options, cache_dir=tmp_path))
    with pytest.raises(InputError, match="nothere"):
        ablate(dataclasses.replace(options, recipe_a="nothere", out=tmp_path / "x"))
    with pytest.raises(InputError, match="--seeds repeats every row"):
        ablate(dataclasses.replace(options, grids=("seed=0,1",), seeds=2))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_child_that_says_nothing_is_named_by_its_exit_code(tmp_path: Path) -> None:
    asked = {"cache": [str(tmp_path)], "config": None, "sets": [], "out": str(tmp_path / "out"), "seeds": 1}
    (ended,) = run_tasks([Task(7, asked | {"options": {"unknown": 1}}, tmp_path / "log.txt")], 1)
    assert ended.number == 7
    assert ended.problem == f"exit code 1; its output is in {tmp_path / 'log.txt'}"
    assert "unknown" in (tmp_path / "log.txt").read_text()
    (ended,) = run_tasks([Task(1, asked | {"options": {}}, tmp_path / "log.txt")], 1)
    assert ended.problem is not None
    assert "no dataset here" in ended.problem


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_baselines_beside_the_first_row_and_where_they_are_asked_for(
    whole: Ablation, options: AblationOptions, tmp_path: Path
) -> None:
    first, *others = [found.metrics for found in whole.report.results[:3]]
    assert first is not None
    assert first["baselines"].keys() == {"id_only", "id_only_sequence", "one_number"}
    assert all(metrics is not None and metrics["baselines"] == {} for metrics in others)
    shutil.copytree(whole.folder, tmp_path / "out")
    again = ablate(dataclasses.replace(options, baselines="one_number", out=tmp_path / "out"))
    found = [one.metrics for one in again.report.results[:3]]
    assert all(metrics is not None and "one_number" in metrics["baselines"] for metrics in found)
    assert table(tmp_path / "out") == table(whole.folder), "the rows are as they were"
    with pytest.raises(InputError, match="'tree': no such baseline; did you mean 'trees'"):
        ablate(dataclasses.replace(options, baselines="tree", out=tmp_path / "out"))
