"""`train --compute auto` and `train --scan`: what is chosen, said and saved, and what a resumed run keeps."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import QUICK, rows

from crossllm.cache import Conflict, InputError
from crossllm.cache.console import runner
from crossllm.model import device
from crossllm.model.scan import selective_scan as scan
from crossllm.pipeline import train as module
from crossllm.pipeline.cli_train import train as command
from crossllm.pipeline.systems import model_folds
from crossllm.pipeline.train import Run, train
from crossllm.pipeline.training.inputs import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def asked(options: TrainOptions, **settings: Any) -> TrainOptions:
    return dataclasses.replace(options, config=dataclasses.replace(options.config, **settings))


def saved(run: Run | Path) -> dict[str, Any]:
    folder = run if isinstance(run, Path) else run.folder
    found = tomllib.loads((folder / "config.toml").read_text())["train"]
    return {name: found[name] for name in ("compute", "scan")}


def cut_off(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a run and end it after its first fold."""
    fit, fitted = model_folds.fit_fold, []

    def once(*arguments: Any) -> Any:
        if fitted:
            raise KeyboardInterrupt
        fitted.append(1)
        return fit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(model_folds, "fit_fold", once)
        with pytest.raises(KeyboardInterrupt):
            train(options)


@pytest.mark.parametrize(
    ("bfloat16", "chosen", "why"),
    [(True, "bfloat16", "it is faster here"), (False, "float32", "it is slower here")],
)
def test_auto_computes_in_what_the_device_is_made_for(
    bfloat16: bool, chosen: str, why: str, small: TrainOptions, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "choose_compute", lambda *_: (chosen, why))
    small = asked(small, epochs=1)
    auto = asked(dataclasses.replace(small, out=tmp_path / "auto"), compute="auto")
    run = train(auto)
    assert f"note: --compute auto: {chosen}, {why}" in capsys.readouterr().err.splitlines()
    assert saved(run)["compute"] == run.metrics["compute"] == chosen
    named = train(asked(dataclasses.replace(small, out=tmp_path / "named"), compute=chosen))
    for name in ("config.toml", "metrics.json", "history.csv", "predictions.tsv"):
        assert (run.folder / name).read_bytes() == (named.folder / name).read_bytes(), name
    other = train(asked(dataclasses.replace(small, out=tmp_path / "other"), compute="float32"))
    same = (run.folder / "history.csv").read_bytes() == (other.folder / "history.csv").read_bytes()
    assert same is not bfloat16, "the products are in bfloat16, not only said to be"


def test_a_resumed_run_computes_as_it_began(
    small: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = asked(dataclasses.replace(small, resume=True), compute="auto")
    monkeypatch.setattr(module, "choose_compute", lambda *_: ("bfloat16", "faster"))
    cut_off(auto, monkeypatch)
    monkeypatch.setattr(module, "choose_compute", lambda *_: ("float32", "slower"))
    capsys.readouterr()
    run = train(auto)
    assert "note: --compute auto: bfloat16, as this run began" in capsys.readouterr().err.splitlines()
    assert saved(run)["compute"] == run.metrics["compute"] == "bfloat16"
    with pytest.raises(Conflict, match=r"train\.compute \(float32, there bfloat16\)"):
        train(asked(auto, compute="float32"))


def test_the_backend_asked_for_runs_the_scan(
    small: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: set[str] = set()
    kernels, plain = scan._kernels, scan.reference.scan

    def of_backend(name: str) -> scan.Kernels | None:
        used.add(name)
        return kernels(name)

    def reference(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        used.add("plain torch")
        return plain(*given)

    monkeypatch.setattr(scan, "_kernels", of_backend)
    monkeypatch.setattr(scan.reference, "scan", reference)
    pooled = asked(small, tokens="pooled", epochs=1)
    losses = []
    for name, runs in (("auto", "numba"), ("numba", "numba"), ("reference", "reference")):
        used.clear()
        run = train(asked(dataclasses.replace(pooled, out=tmp_path / name), scan=name))
        assert used == ({runs, "plain torch"} if runs == "reference" else {runs})
        assert f"scan by {runs}" in capsys.readouterr().err
        assert saved(run)["scan"] == name, "as it was asked for"
        assert run.metrics["scan"] == runs
        losses.append([float(row["validation_loss"]) for row in rows(run.folder / "history.csv", ",")])
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-4)


def test_another_backend_is_refused_by_a_resumed_run_only_where_it_is_asked_for(
    small: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(asked(small, scan="numba"))
    again = dataclasses.replace(small, resume=True)
    assert train(asked(again, scan="auto")).metrics == run.metrics
    monkeypatch.setattr(module, "default_backend", lambda _device: "reference")  # as on another machine
    assert train(asked(again, scan="auto")).metrics["scan"] == "numba"
    with pytest.raises(Conflict, match=r"train\.scan \(reference, there numba\)"):
        train(asked(again, scan="reference"))
    assert saved(run)["scan"] == "numba"


def test_a_run_that_chose_by_itself_takes_the_name_of_what_it_chose(
    trained: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = dataclasses.replace(trained, resume=True)
    run = train(again)
    assert train(asked(again, scan="numba")).metrics == run.metrics
    with pytest.raises(Conflict, match=r"train\.scan \(reference, there auto\)"):
        train(asked(again, scan="reference"))
    monkeypatch.setattr(module, "default_backend", lambda _device: "reference")
    assert train(again).metrics == run.metrics, "what auto chooses now is no part of what a run is"


def test_a_run_from_before_a_setting_had_its_default(trained: TrainOptions) -> None:
    again = dataclasses.replace(trained, resume=True)
    run = train(again)
    config = run.folder / "config.toml"
    config.write_text(config.read_text().replace('scan = "auto"\n', "").replace('compute = "float32"\n', ""))
    assert train(again).metrics == run.metrics
    with pytest.raises(Conflict, match=r"train\.compute \(bfloat16, there float32\)"):
        train(asked(again, compute="bfloat16"))


@pytest.mark.parametrize(
    ("flags", "there", "say"),
    [
        (["--scan", "triton"], False, "--scan: scan backend triton is not installed; pip install triton, or use auto"),
        (
            ["--scan", "mamba_ssm"],
            False,
            "--scan: scan backend mamba_ssm is not installed; pip install mamba-ssm causal-conv1d, or use auto",
        ),
        (["--scan", "triton"], True, "--scan: scan backend triton needs a CUDA device; got cpu; use auto"),
        (["--set", "scan=cuda"], True, "--set scan: 'cuda' is not one of auto, reference, numba, triton, mamba_ssm"),
        (
            ["--compute", "float16"],
            True,
            "--compute: 'float16' is not one of float32, bfloat16, auto; did you mean 'bfloat16'?",
        ),
    ],
)
def test_a_backend_that_cannot_be_had_is_one_line_before_anything_is_read(
    flags: list[str], there: bool, say: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("crossllm.model.scan.backends.find_spec", lambda _name: object() if there else None)
    assert runner._run(command, ["--cache", str(tmp_path / "absent"), *flags]) == 2
    assert capsys.readouterr().err == f"error: {say}\n"
    assert not list(tmp_path.iterdir())


def test_flags_through_the_program(
    small: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.cache_dir
    quick = [f"--{name.replace('_', '-')}={getattr(QUICK, name)}" for name in ("folds", "epochs")]
    flags = ["--cache", str(folder), "--d-model", "8", "--d-state", "4", "--quiet", *quick]
    monkeypatch.setattr(module, "choose_compute", lambda *_: ("bfloat16", "faster"))
    assert runner._run(command, [*flags, "--compute", "auto", "--scan", "numba"]) == 0
    assert saved(folder / "runs" / "demo") == {"compute": "bfloat16", "scan": "numba"}
    monkeypatch.setattr(module, "choose_compute", lambda *_: ("float32", "slower"))
    resumed = ["--cache", str(folder), "--quiet", "--resume"]
    for more in ([], ["--compute", "auto", "--scan", "auto"], ["--scan", "numba"]):
        assert runner._run(command, [*resumed, *more]) == 0
    capsys.readouterr()
    assert runner._run(command, [*resumed, "--scan", "reference"]) == 5
    assert "train.scan (reference, there numba)" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"^--scan: scan backend numba takes float32 on the CPU"):
        train(asked(TrainOptions(folder, QUICK, device="meta"), scan="numba"))


@pytest.mark.parametrize(("ratio", "chosen"), [(2.0, "bfloat16"), (1.05, "float32"), (0.5, "float32")])
def test_the_faster_type_is_taken_and_why_is_said(ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda _device: True)
    monkeypatch.setattr(device, "_seconds", lambda _w, kind, _d: ratio if kind is torch.float32 else 1.0)
    found, why = device.choose_compute(64, torch.device("cpu"))
    assert found == chosen
    assert why == f"products of width 64 are {ratio:.2g} × as fast in bfloat16 on cpu"
    monkeypatch.setattr(device, "has_bfloat16", lambda _device: False)
    assert device.choose_compute(64, torch.device("cpu"))[0] == "float32"


def test_both_types_are_timed() -> None:
    for kind in (torch.float32, torch.bfloat16):
        assert 0 < device._seconds(16, kind, torch.device("cpu")) < 10
