"""Who may import whom, what `--help` and `train` must not import, and that every public name says what it is."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

FLOORS: dict[str, tuple[str, ...]] = {
    "cache": (
        "cli cli_index", "cli_flags cli_remote", "maintenance", "store", "index", "records", "cluster remote",
        "console", "files", "errors",
    ),
    "embed": (
        "cli cli_cache cli_options cli_shards cli_weights", "run foreign distributed",
        "encoders", "weights", "encoder", "engine",
    ),
    "model": (
        "ensemble", "interaction", "fusion", "factored_mixing", "bimamba", "fused", "scan", "threads",
        "batch device draws losses optimiser standardise summary tokens",
        "settings",
    ),
    "pipeline": (
        "main", "cli",
        "cli_ablate cli_compare cli_completion cli_data cli_doctor cli_explain cli_report cli_train cli_use",
        "cli_split_flags cli_use_flags", "doctor page", "experiments", "train", "explaining",
        "reporting use", "systems", "baselines", "training", "evaluation negatives", "splits", "similarity", "features",
        "data ranks",
    ),
}  # fmt: skip
"""Package → its files and folders from the top floor down; those of one entry are neighbours.

Imports go down, or sideways to a neighbour or within a folder; never up.
"""
PACKAGES: dict[str, set[str]] = {"cache": set(), "embed": {"cache"}, "model": set(), "pipeline": {"cache", "model"}}
"""Package → the others it may import."""
GROUND = {f"crossllm.{path.stem}": path for path in sorted((ROOT / "pipeline" / "crossllm").glob("[a-z]*.py"))}
"""Beneath the four packages, with the import name: any may import them, and they import each other alone."""
COMPOSITION_ROOTS = {"crossllm.pipeline.main", "crossllm.pipeline.cli", "crossllm.pipeline.cli_doctor"}
"""The umbrella command: may name every CLI, lazily, and every self-check."""
BRIDGES = {"crossllm.pipeline.use.embedding": "embed"}
"""Module → the package that it alone may import, and only inside its functions."""
MOST_FILES = 20
"""Of code in a folder."""


def modules() -> dict[str, Path]:
    """Import name → file, of everything that is installed."""
    found = dict(GROUND)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[:2] != ("pipeline", "crossllm") and (path.parent / "__init__.py").exists():
                found[".".join(("crossllm", *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()
every_module = pytest.mark.parametrize("name", MODULES, ids=lambda name: name.removeprefix("crossllm."))


def imported(tree: ast.AST) -> set[str]:
    """Everything imported anywhere in a module, also inside functions and by `import_module("…")`: dotted names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative import"
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in MODULES else node.module
                      for a in node.names}  # fmt: skip
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return found


IMPORTS = {name: imported(ast.parse(path.read_text())) for name, path in MODULES.items()}


def floor(name: str) -> int:
    """Of a module in its package, 0 at the bottom; the package's own `__init__` is the roof."""
    _, package, *rest = name.split(".")
    if not rest:
        return len(FLOORS[package])
    floors = [n for n, entry in enumerate(reversed(FLOORS[package])) if rest[0] in entry.split()]
    assert floors, f"{package}/{rest[0]} stands on no floor; put it into FLOORS"
    return floors[0]


@every_module
def test_packages_and_floors(name: str) -> None:
    package, names = name.split(".")[1], IMPORTS[name]
    ours = {other for other in names if other.split(".")[0] == "crossllm"}
    if name in GROUND:
        assert ours <= GROUND.keys(), name
        return
    ours -= GROUND.keys()
    if name not in COMPOSITION_ROOTS:
        for other in ours:
            there = other.split(".")[1]
            bridged = BRIDGES.get(name) == there
            assert there == package or there in PACKAGES[package] or bridged, f"{package} imports {other}"
            assert there != package or floor(other) <= floor(name), f"{name} imports {other}, a floor above it"
    tops = {other.split(".")[0] for other in names}
    if package == "cache":
        assert "torch" not in tops
    assert not tops & {"pickle", "marshal", "shelve", "dill", "joblib", "yaml"}, "no pickle for reading, anywhere"


def test_no_file_is_in_a_circle() -> None:
    waiting = {
        name: {other for other in names if other in MODULES and other != name} for name, names in IMPORTS.items()
    }
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"import each other: {sorted(waiting)}"


def test_no_encoder_imports_another() -> None:
    """What they share stands in `language_model`, `published_forms` or below."""
    encoders = {f"crossllm.embed.encoders.{n}" for n in
                ("esm2", "rinalmo", "rnafm", "rnabert", "gnn", "profile", "profile_molecule")}  # fmt: skip
    for name in encoders:
        assert not IMPORTS[name] & encoders, name


def test_what_is_installed_is_what_is_there() -> None:
    """`packages` of pyproject.toml is written by hand: a room that it lacks would be missing in the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert not set(GROUND) & folders
    assert sorted(listed) == sorted({"crossllm", *folders})


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda p: p.name)
def test_a_folder_says_what_it_is_for_and_is_small(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_FILES + 1, "beside its __init__.py"
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert text
    assert len(text.splitlines()) >= 2


def test_git_ignores_datasets_and_no_code() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    code = {f"!/cache/{path.name}/" for path in (ROOT / "cache").iterdir() if (path / "__init__.py").exists()}
    assert code == {line for line in ignored if line.startswith("!/cache/")}
    assert "/cache/*/" in ignored


@every_module
def test_public_names_have_docstrings(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    assert ast.get_docstring(tree), "module docstring"
    hidden: set[ast.AST] = set()
    """What stands in a function, or is a member of a private class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node not in hidden:
            hidden.update(found for found in ast.walk(node) if found is not node)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("_"):
            hidden.update(node.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert node in hidden or ast.get_docstring(node), f"{node.name} at line {node.lineno}"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (
            "from crossllm.pipeline.cli import crossllm; crossllm(['--help'], standalone_mode=False)",
            "torch transformers rdkit dask zarr h5py numcodecs",
        ),
        (
            "from crossllm.embed.cli import embed; embed(['run', '--help'], standalone_mode=False)",
            "torch transformers rdkit dask zarr h5py numcodecs",
        ),
        (
            "from crossllm.pipeline.cli_train import train; train(['--help'], standalone_mode=False)",
            "torch transformers rdkit dask h5py numcodecs",
        ),
        (
            "from crossllm.pipeline.cli_ablate import ablate; ablate(['--help'], standalone_mode=False)",
            "numpy torch matplotlib scipy sklearn rdkit zarr",
        ),
        (
            "from crossllm.pipeline.cli_compare import compare; compare(['--help'], standalone_mode=False)",
            "numpy torch matplotlib scipy sklearn rdkit zarr",
        ),
        (
            "from crossllm.pipeline.cli_doctor import doctor; doctor(['--help'], standalone_mode=False)",
            "numpy torch numba rdkit zarr h5py",
        ),
        (
            "from crossllm.pipeline.cli_report import report; report(['--help'], standalone_mode=False)",
            "numpy torch matplotlib scipy sklearn rdkit zarr jinja2",
        ),
        (
            "from crossllm.pipeline.cli_explain import explain; explain(['--help'], standalone_mode=False)",
            "numpy torch matplotlib scipy sklearn rdkit zarr",
        ),
        (
            "from crossllm.embed.cli_cache import cache; cache(['import', '--help'], standalone_mode=False)",
            "torch h5py numcodecs safetensors transformers rdkit dask zarr",
        ),
        (
            "import crossllm.pipeline.train, crossllm.model, crossllm.cache",
            "transformers rdkit dask zarr h5py numcodecs crossllm.embed fair_esm esm",
        ),
        (
            "import crossllm.pipeline.splits.choosing, crossllm.pipeline.splits.parts; "
            "import crossllm.pipeline.reporting.leaks, crossllm.pipeline.negatives.making; "
            "import crossllm.pipeline.training.config, crossllm.pipeline.experiments.compare",
            "torch transformers scipy sklearn numba matplotlib parasail rdkit dask zarr h5py numcodecs",
        ),
        (
            "import crossllm.pipeline.use.predicting",
            "transformers rdkit dask zarr h5py numcodecs crossllm.embed",
        ),
        (
            "from crossllm.pipeline.cli_use import predict; predict(['--help'], standalone_mode=False)",
            "numpy torch matplotlib scipy sklearn rdkit zarr",
        ),
        (
            "import crossllm.embed.run.run, crossllm.embed.encoders.profile",
            "torch transformers rdkit dask zarr h5py numcodecs",
        ),
    ],
)
def test_heavy_imports_stay_away(code: str, forbidden: str) -> None:
    check = f"{code}\nimport sys; print('LOADED', *sorted(set(sys.modules) & set({forbidden.split()!r})))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_there_is(path: Path) -> None:
    """They are run by hand, and no type checker reads them: a name that was given another is noticed here."""
    wanted = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "crossllm"
        for alias in node.names
    ]
    missing = [
        name
        for module, name in wanted
        if f"{module}.{name}" not in MODULES and not hasattr(importlib.import_module(str(module)), name)
    ]
    assert not missing
