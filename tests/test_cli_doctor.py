"""`crossllm doctor`: what it finds is so, each fault is found and told with its cure, and nothing is changed by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Program

from crossllm.cache.console import runner
from crossllm.checks import Check
from crossllm.pipeline import cli_doctor
from crossllm.pipeline.cli import crossllm
from crossllm.pipeline.doctor import cache_health, computing, control_group, libraries, machine
from crossllm.pipeline.doctor.probes import Probe, run_probes


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def _doctor(program: Program, *arguments: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, name → finding, standard error."""
    done = program("crossllm", "doctor", "--json", *arguments)
    told = json.loads(done.stdout)
    failed = [check for check in told["checks"] if check["state"] == "broken" and check["needed"]]
    assert told["works"] is not bool(failed)
    return done.returncode, {check["name"]: check for check in told["checks"]}, done.stderr


@pytest.mark.slow
def test_here_all_that_is_needed_works_and_nothing_is_changed(fresh_program: Program, made_cache: Path) -> None:
    before = _tree(made_cache)
    code, found, said = _doctor(fresh_program, "-c", made_cache)
    assert (code, said) == (0, "")
    assert _tree(made_cache) == before
    assert found["torch"]["said"] == torch.__version__
    assert found["damage"]["state"] == found["numba"]["state"] == found["SDPA"]["state"] == "ok"
    assert {check["section"] for check in found.values()} == {
        "machine", "libraries", "devices", "threads", "scan", "attention", "weights", "cache"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ImportError('made by a test')", "ImportError: made by a test"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended its process by signal 4 (SIGILL)"),
    ],
)
def test_a_broken_library_is_a_finding(
    body: str, said: str, fresh_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba's import fails, or ends the process: all else is looked at still."""
    (tmp_path / "stubs" / "numba").mkdir(parents=True)
    (tmp_path / "stubs" / "numba" / "__init__.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stubs"))
    done = fresh_program("crossllm", "doctor")
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "numba" in line
    assert f"  broken  numba             {said}\n          → make setup, or" in done.stdout
    for fine in ("torch", "zarr", "cpu", "SDPA"):
        assert f"  ok      {fine} " in done.stdout


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "made_probes.py").write_text(
        textwrap.dedent("""
        import os, sys, time
        from crossllm.checks import Check

        def fine(name):
            print("this is no answer")
            return [Check("made", name, "ok", "x" * 100_000)]

        def raises():
            raise ValueError("first line\\nsecond line")

        def leaves():
            sys.exit("no")

        def ends():
            os._exit(7)

        def hangs():
            time.sleep(60)
        """)
    )
    return tmp_path


@pytest.mark.slow
def test_a_probe_that_fails_in_any_way_costs_no_other(stubs: Path) -> None:
    calls = ["fine:one", "raises", "fine:two", "leaves", "ends", "fine:three", "hangs", "fine:four"]
    probes = [Probe("made", call, f"made_probes:{call}", "mend it", needed=False) for call in calls]
    found = list(run_probes(probes, patience=8))
    assert [check.name for check in found] == [call.removeprefix("fine:") for call in calls]
    said = {check.name: check.said for check in found if check.state == "broken"}
    assert said == {
        "raises": "ValueError: first line second line",
        "leaves": "SystemExit: no",
        "ends": "ended its process with exit code 7",
        "hangs": "did not end within 8 s",
    }
    assert all((check.mend, check.needed) == ("mend it", False) for check in found if check.state == "broken")


# -- the verdict


def _verdict(monkeypatch: pytest.MonkeyPatch, *found: Check) -> int:
    monkeypatch.setattr(cli_doctor, "_checks", lambda _: iter(found))
    return runner._run(crossllm, ["doctor"])


OK = Check("machine", "python", "ok", "3")
VERDICTS = [
    ([OK], 0, "all that is needed works\n"),
    ([OK, Check("scan", "triton", "broken", "x", "y", needed=False)], 0, "1 could be better, see →"),
    ([OK, Check("libraries", "numba", "broken", "x", "y")], 6, "needed, and does not work: numba;"),
    ([Check("cache", "damage", "broken", "x")], 3, "the cache is damaged"),
    (
        [Check("cache", "damage", "broken", "x"), Check("scan", "numba", "broken", "x")],
        6,
        "does not work: damage, numba;",
    ),
]


@pytest.mark.parametrize(("found", "code", "said"), VERDICTS)
def test_the_exit_code(
    found: list[Check], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _verdict(monkeypatch, *found) == code
    captured = capsys.readouterr()
    assert said in (captured.err if code else captured.out)
    assert len(captured.err.splitlines()) == bool(code)


def test_a_folder_that_is_no_cache_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, ["doctor", "-c", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "no cache here" in captured.err
    assert not captured.out


def test_the_backends_are_those_of_the_scan() -> None:
    from crossllm.model.settings import BACKENDS

    assert cli_doctor._BACKENDS == BACKENDS
    for probe in cli_doctor._probes(Path()):
        module, function, *_ = probe.call.split(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


# -- what computes something else


def test_a_scan_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossllm.model.scan import self_check

    right, conv = self_check.selective_scan, self_check.causal_conv
    assert self_check.check_backend("numba")[0].state == "ok"
    for wrong in (lambda y: y * 1.01, lambda y: y * float("nan")):

        def scan(*given: Any, wrong: Any = wrong) -> torch.Tensor:
            return wrong(right(*given)) if given[-1] == "numba" else right(*given)

        monkeypatch.setattr(self_check, "selective_scan", scan)
        (found,) = self_check.check_backend("numba")
        assert (found.state, found.needed) == ("broken", True)
        assert "its scan differs from the reference" in found.said
    monkeypatch.setattr(self_check, "selective_scan", right)
    monkeypatch.setattr(self_check, "causal_conv", lambda *given: conv(*given) + 0.01)
    assert "its convolution differs" in self_check.check_backend("numba")[0].said
    if not torch.cuda.is_available():
        assert self_check.check_backend("mamba_ssm")[0].state == "absent"


def test_attention_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossllm.embed.engine import elementwise, self_check

    assert self_check.check_attention()[0].state == self_check.check_fused()[0].state == "ok"
    right = self_check.by_blocks
    monkeypatch.setattr(self_check, "by_blocks", lambda qkv, packing: right(qkv, packing).roll(1, 0))
    assert self_check.check_attention()[0].state == "broken"
    monkeypatch.setattr(elementwise.fused_cpu, "rotate", lambda qkv, cos, sin: None)
    assert self_check.check_fused()[0].state == "broken"


# -- the machine


def test_a_library_that_is_too_old_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"torch", "numpy", "numba", "zarr", "h5py", "rdkit"} <= {one.name for one in libraries.wanted()}
    assert libraries.check_library("numpy")[0].state == "ok"
    versions = {"numpy": "1.26.4", "torch": "2.9.1+cpu", "numba": "0.60.0rc1"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    assert libraries.check_library("numpy")[0][2:5] == ("broken", "1.26.4 is installed, 2.0 or newer is needed",
                                                        "pip install 'numpy>=2.0'")  # fmt: skip
    assert libraries.check_library("torch")[0].state == "broken"
    assert libraries.check_library("numba")[0].state == "ok"

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert libraries.check_library("zarr")[0][2:5] == ("broken", "not installed", "pip install 'zarr>=3.1'")
    assert libraries.check_library("flash-attn")[0].state == "absent"


def test_control_groups_of_both_versions(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")

    own = tmp_path / "own"
    assert control_group.cpu_quota(tmp_path / "none", own) is None
    write("own", "0::/job/step")
    write("two/job/step/cpu.max", "max 100000")
    write("two/job/cpu.max", "150000 100000")
    write("two/job/step/memory.max", "max")
    write("two/job/memory.max", "2147483648")
    assert control_group.cpu_quota(tmp_path / "two", own) == 1.5
    assert control_group.memory_bound(tmp_path / "two", own) == 2 << 30
    write("own", "7:cpu,cpuacct:/a\n5:memory:/a\n1:name=systemd:/a")
    write("one/cpu/cpu.cfs_quota_us", "-1")
    write("one/cpu/cpu.cfs_period_us", "100000")
    write("one/memory/memory.limit_in_bytes", str(2**63 - 4096))
    assert control_group.cpu_quota(tmp_path / "one", own) is None
    assert control_group.memory_bound(tmp_path / "one", own) is None
    write("one/cpu/a/cpu.cfs_quota_us", "400000")
    write("one/cpu/a/cpu.cfs_period_us", "100000")
    write("one/memory/a/memory.limit_in_bytes", "1000")
    assert control_group.cpu_quota(tmp_path / "one", own) == 4.0
    assert control_group.memory_bound(tmp_path / "one", own) == 1000


def _machine(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in machine.check_machine(folder)}


def test_what_is_wrong_with_a_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {check.state for check in _machine(tmp_path / "not" / "there").values()} <= {"ok", "improve"}
    assert not (tmp_path / "not").exists()
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(machine, "address_space", lambda: 1 << 29)
    monkeypatch.setattr(machine, "place_for", lambda *_: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    found = _machine(tmp_path)
    assert {name for name, check in found.items() if check.state == "broken"} == {
        "environment", "memory", "temporary files"
    }  # fmt: skip
    assert "OMP_NUM_THREADS='many'" in found["environment"].said
    assert found["cores"].said.startswith("1 of")
    assert {name for name, check in found.items() if check.state == "improve"} == {"kernels", "disk"}
    assert all(check.mend for check in found.values() if check.state != "ok")


def test_a_folder_at_hand_that_is_gone_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert _machine(Path())["disk"].said.startswith("cannot be told")
    monkeypatch.chdir(tmp_path)


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert computing.check_threads()[0].state == "ok"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    (found,) = computing.check_threads()
    assert found.state == "improve"
    assert found.mend.startswith("export OMP_NUM_THREADS=")


def test_a_driver_that_torch_cannot_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(computing, "_DRIVER", (tmp_path / "none",))
    assert [check.state for check in computing.check_devices()] == ["ok", "absent"]
    monkeypatch.setattr(computing, "_DRIVER", (tmp_path,))
    assert [check.state for check in computing.check_devices()] == ["ok", "improve"]


def test_weights_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossllm.embed.encoders.at_hand import check_weights
    from crossllm.embed.weights.published import pulled_path

    monkeypatch.setenv("CROSSLLM_WEIGHTS", str(tmp_path))
    assert [check.state for check in check_weights()] == ["absent"]
    path = pulled_path("rnabert")
    path.parent.mkdir()
    path.write_bytes(b"not checked")
    assert [(check.name, check.state, check.mend) for check in check_weights()][1:] == [
        ("rnabert", "improve", "embed pull rnabert")
    ]
    monkeypatch.setenv("CROSSLLM_WEIGHTS", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/")
    assert check_weights()[0].mend.startswith("name a folder in $CROSSLLM_WEIGHTS")


# -- a cache


def test_a_cache_s_health(made_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(cache_health.check_cache(str(made_cache)))
    assert [(check.name, check.state) for check in found] == [("damage", "ok"), ("rna profile", "ok")]
    monkeypatch.setattr(cache_health, "_MANY", 1)
    (recipe,) = (made_cache / "embeddings" / "rna").iterdir()
    (recipe / "segments" / ("0" * 32)).mkdir()
    found = list(cache_health.check_cache(str(made_cache)))
    assert [(check.name, check.state, check.mend.split()[2:3]) for check in found] == [
        ("damage", "ok", []), ("writers", "improve", ["gc"]), ("rna profile", "improve", ["compact"])
    ]  # fmt: skip


def test_sequences_without_rows_and_damage(tmp_path: Path) -> None:
    from crossllm.embed.run.plan import RunOptions
    from crossllm.embed.run.run import run

    folder = tmp_path / "a cache"
    for text in (">r1\nACGU\n", ">r2\nGGG\n>r3\nUUU\n"):
        (tmp_path / "x.fasta").write_text(text)
        run(RunOptions("rna", tmp_path / "x.fasta", folder, "profile", quiet=True))
    commits = sorted(folder.glob("embeddings/rna/*/commits/*.json"), key=os.path.getmtime)
    kept = commits[1].read_bytes()
    commits[1].unlink()  # as if the second run had listed its sequences and been killed
    rows = [check for check in cache_health.check_cache(str(folder)) if check.name == "rows"]
    assert [check.said for check in rows] == ["2 of 3 rna sequences have no rows of profile"]
    assert rows[0].mend.endswith(f"-c '{folder}'")
    commits[1].write_bytes(kept[:-10])
    found = list(cache_health.check_cache(str(folder)))
    assert found[0].state == "broken"
    assert found[0].mend == f"crossllm cache repair '{folder}' --dry-run"


@pytest.mark.slow
def test_the_child_is_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crossllm.pipeline.doctor.child"]
    call = "crossllm.pipeline.doctor.libraries:check_library:click"
    done = subprocess.run([*command, call], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checks"][0]["name"] == "click"
