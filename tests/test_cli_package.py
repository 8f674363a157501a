"""What pyproject.toml and CITATION.cff say of the package."""

from __future__ import annotations

import re
import sys
import tomllib

from conftest import ROOT
from test_cli_layers import IMPORTS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {"scikit-learn": "sklearn", "tomli-w": "tomli_w", "mamba-ssm": "mamba_ssm"}
NOT_ASKED_FOR = {"llvmlite", "triton", "flash_attn", "pandas"}
"""Of Numba and of torch's CUDA builds, which bring the version that they want; taken where its owner has built it; a
frame is given where people have pandas."""


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[\[<>=;, ]", requirement)[0] for requirement in requirements}
    return {IMPORTED_AS.get(name, name) for name in found}


def test_every_dependency_is_imported_and_every_import_is_one() -> None:
    used = {other.partition(".")[0] for found in IMPORTS.values() for other in found}
    used -= {*sys.stdlib_module_names, "crossllm"}
    required = names(PROJECT["dependencies"])
    assert required <= used, "no code uses it: make it an extra"
    extras = {
        name for extra in ("dask", "gpu", "parquet", "s3") for name in names(PROJECT["optional-dependencies"][extra])
    }
    assert used - required <= extras | NOT_ASKED_FOR


def test_the_citation_names_the_version_and_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {PROJECT['version']}\n" in text
    assert f"license: {PROJECT['license']}\n" in text
    assert PROJECT["urls"]["Paper"] in text


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "pipeline" / "crossllm" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]
