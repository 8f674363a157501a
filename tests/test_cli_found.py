"""Faults that a tester found: flags given twice, odd variables, parts taken for folds, odd labels and numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from made_runs import QUICK, embedded_demo

from crossllm.cache.console import runner
from crossllm.cache.console.once import Command
from crossllm.cache.errors import InputError
from crossllm.kernels import thread_problem
from crossllm.pipeline.cli import crossllm
from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.data.labels import LabelNames, Labels
from crossllm.pipeline.evaluation.table import _number
from crossllm.pipeline.splits.given import given_folds, in_a_fold
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions


def leaves(command: click.Command, name: str = "") -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(name, command)]
    context = click.Context(command)
    found = [(sub, command.get_command(context, sub)) for sub in command.list_commands(context)]
    return [leaf for sub, inner in found if inner is not None for leaf in leaves(inner, f"{name} {sub}".strip())]


def test_every_command_refuses_an_option_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in leaves(crossllm):
        assert isinstance(command, Command), name
        for option in command.params:
            if isinstance(option, click.Option) and not (option.multiple or option.is_flag or option.is_eager):
                flag = max(option.opts, key=len)
                assert runner._run(crossllm, [*name.split(), flag, "1", flag, "1"]) == 2
                line = capsys.readouterr().err
                assert f"{flag}: is given twice" in line or "--layer: is given twice" in line, (name, flag, line)


def test_what_may_be_repeated_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--cache", str(tmp_path / "no"), "--set", "lr=0.1", "--set", "epochs=2", "--quiet", "--quiet"]
    assert runner._run(crossllm, command) == 2
    assert "twice" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUMBA_DISABLE_JIT", "1"), ("NUMBA_THREADING_LAYER", "foo"), ("NUMBA_THREADING_LAYER", "tbb"),
        ("NUMBA_THREADING_LAYER_PRIORITY", "tbb"), ("NUMBA_NUM_THREADS", "0"),
    ],
)  # fmt: skip
def test_a_variable_of_numba_is_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    found = thread_problem()
    assert found is not None
    assert found.startswith(name)
    assert "\n" not in found


def test_sound_variables_of_numba_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DISABLE_JIT": "0", "THREADING_LAYER": "omp", "THREADING_LAYER_PRIORITY": "tbb omp"}.items():
        monkeypatch.setenv(f"NUMBA_{name}", value)
    assert thread_problem() is None


@pytest.mark.slow
def test_a_backend_of_jupyter_and_odd_variables_of_tqdm_stop_no_run(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=16, pairs=60)
    command = [sys.executable, "-c", "from crossllm.pipeline.main import train; train()", "--cache", str(folder),
               "--folds", "2", "--epochs", "1", "--d-model", "8", "--d-state", "4", "--tokens", "pooled",
               "--scan", "reference"]  # fmt: skip
    odd = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "TQDM_MININTERVAL": "abc"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | odd, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "TQDM_MININTERVAL: not taken" in done.stderr
    assert (folder / "runs" / "demo" / "roc_pr.png").exists()


def column(folder: Path, values: list[str]) -> object:
    dataset, _ = load_dataset(folder)
    return dataset._replace(extra={"c": values})


@pytest.mark.parametrize(
    "words",
    [("training set", "test set"), ("trn", "tst"), ("0_train", "1_test"), ("True", "False"), ("held-out", "rest")],
)
def test_parts_spelled_oddly_are_no_folds(words: tuple[str, str], tmp_path: Path) -> None:
    dataset = column(embedded_demo(tmp_path / "demo", entities=30, pairs=160), [words[n % 2] for n in range(160)])
    with pytest.raises(InputError, match="reads like a part of one split and no fold"):
        given_folds(dataset, "c")  # type: ignore[arg-type]


def test_folds_of_any_other_name_are_folds(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    for words in (("contest", "trainer"), ("A", "B"), ("valine", "testosterone")):
        dataset = column(folder, [words[n % 2] for n in range(160)])
        assert given_folds(dataset, "c").names == sorted(words)  # type: ignore[arg-type]


def test_marks_of_spreadsheets_are_in_no_fold_and_1_0_is_fold_1(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    marks = ["#N/A", "<NA>", ".", "?", "NULL", ""]
    dataset = column(folder, [marks[n % 6] if n < 60 else "1" if n % 2 else "2.0" for n in range(160)])
    kept = in_a_fold(dataset, "c")  # type: ignore[arg-type]
    assert kept == list(range(60, 160))
    mixed = column(folder, ["1", "1.0", "2", "2.0"] * 40)
    assert given_folds(mixed, "c").names == ["1", "2"]  # type: ignore[arg-type]


def task_of(values: list[str]) -> tuple[str, bool]:
    labels = Labels(Path("pairs.tsv"), None, LabelNames())
    for line, value in enumerate(values, 2):
        labels.read(value, line)
    return labels.task(skips=False)


@pytest.mark.parametrize(
    "values",
    [
        ["0", "0.5", "1"] * 20,
        ["0", "1"] * 25 + ["0.5"] * 6,
        ["0", "1"] * 25 + [f"0.{n}" for n in range(11, 23)],
        ["-1"] * 8 + [str(5.1 + n / 7) for n in range(56)],
        ["-999"] + [str(5.1 + n / 7) for n in range(56)],
        ["9999"] * 8 + [str(5.1 + n / 7) for n in range(56)],
    ],
)
def test_labels_that_leave_it_open_are_asked_about(values: list[str]) -> None:
    with pytest.raises(InputError, match="--task regression"):
        task_of(values)


@pytest.mark.parametrize(
    "values",
    [
        [str(-1 - n / 7) for n in range(56)] + ["-1"],
        [str(n / 7) for n in range(56)],
        [str(900 + n / 7) for n in range(693, 703)],
        ["0", "1"] + [str(n / 7 + 2) for n in range(56)],
    ],
)
def test_affinities_stay_affinities(values: list[str]) -> None:
    assert task_of(values) == ("regression", False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["negative", "positive"], "--positive positive --negative negative"),
        (["positive", "non-binding"], "--positive positive --negative non-binding"),
        (["interacts", "not_found"], "--positive interacts --negative not_found"),
        (["0x0", "0x1"], "--positive WORD --negative WORD"),
        (["interacts", "other"], "--positive WORD --negative WORD"),
        (["20%", "50%"], "--positive WORD --negative WORD"),
    ],
)
def test_which_word_is_positive_is_never_guessed(words: list[str], said: str) -> None:
    for order in (words, words[::-1]):
        with pytest.raises(InputError) as refusal:
            task_of(order * 20)
        assert said in str(refusal.value)


def test_numbers_of_a_table_never_touch() -> None:
    for value in (2.02e-11, -1.68e-11, 1.83e29, 123456.7, 999.9, -0.0421, 0.0):
        assert len(_number(value)) <= 8, value
    assert len(_number(2.02e-11)) == 7


@pytest.mark.slow
def test_a_group_without_a_name_is_named(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    lines = (folder / "pairs.tsv").read_text().splitlines()
    source = tmp_path / "p.tsv"
    body = [f"{line}\t{'x' if n % 2 else ''}" for n, line in enumerate(lines[1:])]
    source.write_text("\n".join([lines[0] + "\tkind", *body]) + "\n")
    from crossllm.embed.run.run import RunOptions, run
    from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset

    sides = Side("rna", folder / "rna.fasta"), Side("protein", folder / "protein.fasta")
    import_dataset(ImportOptions(*sides, source, tmp_path / "c"))
    for side in sides:
        run(RunOptions(side.modality, side.path, tmp_path / "c", "profile", quiet=True))
    done = train(TrainOptions(tmp_path / "c", QUICK, by="kind", quiet=True))
    assert set(done.metrics["by"]["groups"]) == {"(empty)", "x"}
    assert np.isfinite(done.metrics["model"]["accuracy"]["mean"])


def test_a_file_is_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").touch()
    for command in (["train"], ["cache", "info"], ["cache", "verify"]):
        assert runner._run(crossllm, [*command, "--cache", str(tmp_path / "f")]) == 2
        assert "is a file" in capsys.readouterr().err
