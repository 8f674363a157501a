"""What is installed is one name, whatever lies in the user's folder and on PYTHONPATH; wheel and checkout alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

OWN_NAMES = ("cache", "embed", "model", "pipeline", "train", "data")
CODE = ("cache", "embed", "model", "pipeline")


SUFFIXES = (".py", ".typed", ".jinja", ".css")
"""Of what is installed."""


def is_code(path: Path) -> bool:
    """Of a package, and not what `test_a_new_module_needs_no_step_by_hand` makes in another worker."""
    return (path.parent / "__init__.py").exists() and not path.name.startswith("made_by_a_test")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in CODE:  # code alone: cache/ may hold datasets
        for path in (ROOT / name).rglob("*"):
            if path.suffix in SUFFIXES and is_code(path):
                copy = folder / "tree" / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "--wheel-dir", folder, folder / "tree"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment that holds the wheel, and what it depends on but not this checkout."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    install = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps"]
    done = subprocess.run([*install, "--no-index", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth names is searched, and its own .pth files, that of the checkout among them, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def test_the_wheel_holds_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"crossllm"}
    here = {path.relative_to(ROOT).as_posix() for top in CODE for path in (ROOT / top).rglob("*")
            if path.suffix in SUFFIXES and is_code(path)}  # fmt: skip
    expected = {f"crossllm/{name}" for name in here if not name.startswith("pipeline/crossllm/")}
    expected |= {f"crossllm/{path.name}" for path in (ROOT / "pipeline" / "crossllm").glob("*py*") if path.is_file()}
    assert {name for name in names if ".dist-info" not in name} == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a cache, and files of the names that this project's folders have."""
    (tmp_path / "cache" / "demo").mkdir(parents=True)
    for name in OWN_NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user's own was run')\n")
    (tmp_path / "s.fasta").write_text(">s\nACGUACGU\n")
    (tmp_path / "m.smi").write_text("m\tCCO\n")
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["s"] = np.ones((8, 4), np.float32)
    return tmp_path


COMMANDS = {
    "umbrella": "crossllm --help",
    "module": "python -m crossllm --help",
    "train": "train --help",
    "profile": "embed run --modality rna --input s.fasta --encoder profile --quiet",
    "RDKit's child": "embed run --modality molecule --input m.smi --encoder profile --quiet",
    "HDF5's child": "crossllm cache import --modality rna --input s.h5 --fasta s.fasta --cache cache/imported --quiet",
    "demo": "crossllm data demo --cache cache/demo",
}
PYTHONPATHS = {"none": None, "the folder at hand": ".", "an empty entry": os.pathsep, "its full path": "{}"}


def run(bin_: Path, command: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    program, *arguments = command.split()
    return subprocess.run(
        [bin_ / program, *arguments], cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=100
    )


def with_path(path: str | None, folder: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment if path is None else environment | {"PYTHONPATH": path.format(folder)}


@pytest.mark.parametrize("path", PYTHONPATHS.values(), ids=PYTHONPATHS.keys())
def test_a_users_own_files_are_not_run(installed: Path, folder: Path, path: str | None) -> None:
    for name, command in COMMANDS.items():
        # `python -m` puts the folder at hand first, and what python itself imports must not be there.
        done = run(installed, command, folder, with_path(path, folder))
        assert (done.returncode, "the user's own" in done.stderr) == (0, False), f"{name}: {done.stderr}"


def test_a_checkout_is_found_like_a_wheel(folder: Path) -> None:
    """The editable install that `make setup` makes; also a module that was made a moment ago."""
    bin_ = Path(sys.executable).parent
    for name in ("umbrella", "module", "RDKit's child", "HDF5's child"):
        done = run(bin_, COMMANDS[name], folder, with_path(".", folder))
        assert done.returncode == 0, f"{name}: {done.stderr}"


def test_a_new_module_needs_no_step_by_hand(tmp_path: Path) -> None:
    """`make setup` maps folders, so that what is added to one is importable at once; mypy follows links to them."""
    new = ROOT / "cache" / "files" / f"made_by_a_test_{os.getpid()}.py"
    name = f"crossllm.cache.files.{new.stem}"
    new.write_text("VALUE = 1\n")
    try:
        code = f"import {name}; print({name}.VALUE)"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == "1\n", done.stderr
        subprocess.run(["make", "--silent", "--no-print-directory", "types"], cwd=ROOT, check=True)
        assert (ROOT / "build" / "mypy" / Path(*name.split("."))).with_suffix(".py").read_text() == "VALUE = 1\n"
    finally:
        new.unlink()


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_children_find_the_same_code(installed: Path, folder: Path, method: str) -> None:
    (folder / "job.py").write_text(
        "import multiprocessing, sys\n"
        "def found():\n"
        "    import crossllm.cache.store.reader as module\n"
        "    print(module.__file__, flush=True)\n"
        "if __name__ == '__main__':\n"
        f"    child = multiprocessing.get_context('{method}').Process(target=found)\n"
        "    child.start(); child.join(); found(); sys.exit(child.exitcode)\n"
    )
    done = run(installed, "python job.py", folder, with_path(".", folder))
    assert done.returncode == 0, done.stderr
    child, parent = done.stdout.split()
    assert child == parent
    assert Path(parent).is_relative_to(installed.parent)
