"""Variables of the environment at which a library falls over: one line, exit code 2, before it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import llvmlite.binding
import pytest

from crossllm import folders
from crossllm.cache.console import environment, runner
from crossllm.cache.console.environment import drop_empty, environment_problem

BAD = {
    "OMP_NUM_THREADS": "0", "OMP_THREAD_LIMIT": "none", "OMP_DYNAMIC": "maybe", "OMP_STACKSIZE": "x",
    "OMP_SCHEDULE": "now", "OMP_PROC_BIND": "here", "OMP_PLACES": "nowhere", "OMP_WAIT_POLICY": "x",
    "GOMP_SPINCOUNT": "x", "NUMBA_OPT": "4", "NUMBA_DEBUG": "x", "NUMBA_FUNCTION_CACHE_SIZE": "1.5",
    "NUMBA_CPU_FEATURES": "avx2", "TORCHINDUCTOR_CACHE_DIR": "/dev/null/x",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "bogus",
}  # fmt: skip
GOOD = {
    "OMP_NUM_THREADS": " 4, 2 ", "OMP_DYNAMIC": "TRUE", "OMP_STACKSIZE": "16M", "OMP_SCHEDULE": "dynamic,4",
    "OMP_PROC_BIND": "close,spread", "OMP_PLACES": "{0:4}:8:4", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000",
    "NUMBA_OPT": "max", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx2,-avx512f", "NUMBA_DEBUG": "0",
    "OMP_DISPLAY_ENV": "verbose", "KMP_AFFINITY": "whatever",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_variable_that_a_library_cannot_read_is_named(name: str) -> None:
    problem = environment_problem({name: BAD[name]})
    assert problem is not None
    assert problem.startswith(f"{name}='{BAD[name]}': ")
    assert problem.endswith(" is expected; correct the variable or unset it")


@pytest.mark.parametrize("name", GOOD)
def test_what_a_library_reads_is_let_through(name: str) -> None:
    assert environment_problem({name: GOOD[name]}) is None


def test_empty_variables_are_taken_out() -> None:
    """As `export OMP_NUM_THREADS=$UNSET` leaves them."""
    given = {"OMP_NUM_THREADS": "", "NUMBA_OPT": " ", "HOME": "", "OMP_DYNAMIC": "true"}
    drop_empty(given)
    assert given == {"HOME": "", "OMP_DYNAMIC": "true"}


def test_a_library_that_raises_when_it_is_imported_is_told_with_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "broken.py").write_text("raise ValueError('what\\nis this')")
    code = compile((tmp_path / "numba" / "broken.py").read_text(), str(tmp_path / "numba" / "broken.py"), "exec")

    @click.command("x")
    def command() -> None:
        exec(code, {})

    for name in [name for name in os.environ if name.startswith(("NUMBA_", "PYTHONWARNINGS"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="what"):  # no variable of its own is set: a bug of ours, or of the library
        runner._run(command, [])
    monkeypatch.setenv("NUMBA_BOGUS", "1")
    assert runner._run(command, []) == 2
    assert capsys.readouterr().err == (
        "error: numba cannot be imported with NUMBA_BOGUS='1': what is this; correct the variable or unset it\n"
    )
    assert environment.import_problem(ValueError("of ours")) is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("TORCH_LOGS", "bogus"), ("OMP_NUM_THREADS", "0"), ("NUMBA_OPT", "x")])
def test_train_says_one_line(name: str, value: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crossllm", "train", "--cache", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True, timeout=300)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: ")
    assert f"{name}='{value}'" in line


@pytest.mark.slow
def test_a_processor_that_llvm_does_not_know_is_named() -> None:
    problem = environment_problem({"NUMBA_CPU_NAME": "bogus"})
    assert problem is not None
    assert problem.startswith("NUMBA_CPU_NAME='bogus': a processor that LLVM knows, e.g. generic is expected; ")
    assert environment_problem({"NUMBA_CPU_NAME": llvmlite.binding.get_host_cpu_name()}) is None


@pytest.mark.skipif(sys.platform != "linux", reason="matplotlib's folder of settings is elsewhere")
@pytest.mark.parametrize("case", ["named", "settings", "fine"])
def test_matplotlib_gets_a_folder_it_can_write(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it writes two lines among those of the program."""
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in (*folders.LIBRARIES, "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if case == "named":
        monkeypatch.setenv("MPLCONFIGDIR", "/proc/crossllm")
    if case == "settings":
        monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/crossllm")
        monkeypatch.setattr(folders.os, "access", lambda path, _mode: not str(path).startswith("/proc"))
    folders.settle()
    named = os.environ.get("MPLCONFIGDIR")
    assert named is None if case == "fine" else Path(str(named)).parent == folders.temporary()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
