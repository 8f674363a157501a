"""Ctrl-C and SIGTERM while modules load: the exit code of the signal, at most one line, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

# Sends the signal from inside an import, and swallows what is raised there, as NumPy and others do.
STAND_IN = """
import os, time
try:
    os.kill(os.getpid(), {number})
    time.sleep(60)
except BaseException:
    raise ImportError("{name} did not start")
"""
RUN = "run --modality rna --input a.fasta --encoder rnabert --weights w.pt --quiet"
LOADED = [  # program, module that loads for long, arguments, lines said
    ("embed", "click", "models", 0),
    ("embed", "numpy", "models", 1),
    ("embed", "torch", RUN, 1),
    ("train", "click", "--cache c", 0),
    ("train", "numpy", "--cache c", 1),
    ("train", "torch", "--cache c", 1),
    ("crossllm", "click", "--help", 0),
    ("crossllm", "numpy", "cache info --cache c", 1),
    ("crossllm", "torch", f"embed {RUN}", 1),
    ("crossllm", "torch", "train --cache c", 1),
]


def program(name: str) -> str:
    """What the script of a program runs."""
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][name].split(":")
    return f"from {module} import {function}; {function}()"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "module", "arguments", "lines"), LOADED)
def test_a_signal_while_a_module_loads(
    name: str, module: str, arguments: str, lines: int, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "a.fasta").write_text(">x\nACGU\n")
    (tmp_path / "w.pt").write_bytes(b"")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / f"{module}.py").write_text(STAND_IN.format(number=int(number), name=module))
    before = sorted(tmp_path.rglob("*"))
    path = os.pathsep.join([str(tmp_path / "first"), *filter(None, sys.path)])
    command = [sys.executable, "-B", "-c", program(name), *arguments.split()]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout) == (128 + number, ""), done.stderr
    said = "interrupted" if number == signal.SIGINT else "terminated"
    told = [line.removesuffix("; the same command with --resume goes on") for line in done.stderr.splitlines()]
    assert told == [f"{said}; what was committed before stays"] * lines
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_program_ends(number: signal.Signals) -> None:
    code = f"import atexit, os, time; atexit.register(lambda: (os.kill(os.getpid(), {int(number)}), time.sleep(60)))"
    command = [sys.executable, "-c", f"{code}; {program('embed')}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert done.stdout.startswith("Usage: ")


def test_a_signal_that_the_caller_ignores_stays_ignored(tmp_path: Path) -> None:
    """A script's job in the background: the shell has it ignore Ctrl-C."""
    (tmp_path / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT); raise SystemExit(7)")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {program('embed')}"
    done = subprocess.run([sys.executable, "-B", "-c", code], env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 7


def test_a_signal_that_is_ignored_is_not_heard_between_records() -> None:
    stops = "from crossllm.cache.console.runner import stop_between_records\nwith stop_between_records() as stop:"
    code = f"""
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
{stops}
    os.kill(os.getpid(), signal.SIGINT)
    assert not stop()
try:
    {stops.splitlines()[1]}
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
except BaseException as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Terminated\n", "")
