"""Who may import whom, what `--help` and `train` must not import, and that every public name says what it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

ALLOWED = {"cache": set(), "embed": {"cache"}, "model": set(), "pipeline": {"cache", "model"}}
COMPOSITION_ROOT = ROOT / "pipeline" / "main.py"
SOURCES = sorted(path for package in ALLOWED for path in (ROOT / package).glob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything imported anywhere in a module, also by import_module("…")."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found |= {a.value.split(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_layers(path: Path) -> None:
    package = path.parent.name
    names = imported(ast.parse(path.read_text()))
    foreign = (names & ALLOWED.keys()) - ALLOWED[package] - {package}
    assert path == COMPOSITION_ROOT or not foreign, f"{package} imports {foreign}"
    if package == "cache":
        assert "torch" not in names
    assert not names & {"pickle", "marshal", "shelve", "dill", "joblib", "yaml"}, "no pickle for reading, anywhere"


def test_packages_are_flat() -> None:
    for package in ALLOWED:
        assert not [p for p in (ROOT / package).rglob("__init__.py") if p.parent != ROOT / package]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            nested = [
                n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and node in ast.walk(n) and n is not node
            ]
            private = [
                c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name.startswith("_") and node in c.body
            ]
            protocol_field = private or nested
            assert protocol_field or ast.get_docstring(node), f"{node.name} at line {node.lineno}"


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
            "from crossllm.embed.cli_cache import cache; cache(['import', '--help'], standalone_mode=False)",
            "torch h5py numcodecs safetensors transformers rdkit dask zarr",
        ),
        (
            "import crossllm.pipeline.train, model, cache",
            "transformers rdkit dask zarr h5py numcodecs embed fair_esm esm",
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


def test_import_cache_is_ours_in_a_folder_that_holds_a_cache(tmp_path: Path) -> None:
    (tmp_path / "cache" / "demo" / "embeddings").mkdir(parents=True)
    code = "import cache, embed, model, pipeline; print(cache.CacheReader.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "crossllm.cache.store.reader"), done.stderr
