"""`embed models`: its plain numbers are those of the designs, its text that of the table."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
from conftest import ROOT, Program

from crossllm.cache import InputError
from crossllm.embed.encoders import esm2, gnn, rinalmo, rnabert, rnafm, unirep
from crossllm.embed.encoders.language_model import Published
from crossllm.embed.encoders.registry import DEFAULT_ENCODER, ENCODERS, find_encoder, meant_by
from crossllm.embed.engine import mlstm
from crossllm.embed.engine.transformer import expected_shapes
from crossllm.embed.weights.digests import kept_line, kept_path
from crossllm.embed.weights.model_size import UNIREP_SIZES
from crossllm.embed.weights.published import PUBLISHED


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Numbers that are learned; running statistics are not."""
    return sum(prod(shape) for name, shape in shapes.items() if "running_" not in name)


def of(published: Published) -> dict[str, tuple[int, ...]]:
    """The shapes of a model in the first form in which it is published."""
    return expected_shapes(published.design._replace(letters=published.forms[0].alphabet.size))


SHAPES = {
    **{name: of(esm2.published(*size)) for name, size in esm2.SIZES.items()},
    **{name: of(rinalmo.published(*size)) for name, size in rinalmo.SIZES.items()},
    "rnafm": of(rnafm.published()),
    "rnabert": of(rnabert.published()),
    **{name: mlstm.expected_shapes(unirep.stack_of(name)) for name in UNIREP_SIZES},
    **{name: gnn.expected_shapes(kind, gnn.DIM, gnn.LAYERS) for name, kind in gnn.CONVOLUTIONS.items()},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_design(name: str) -> None:
    assert PUBLISHED[name].parameters == count(SHAPES[name])


@pytest.mark.parametrize("module", [esm2, rinalmo])
def test_widths_and_layers_are_those_of_the_design(module: object) -> None:
    for name, (width, layers, _) in module.SIZES.items():  # type: ignore[attr-defined]
        (info,) = (info for info in ENCODERS.values() if info.name == name)
        assert (info.dim, info.layers) == (width, layers)


def test_the_widths_of_unirep_are_those_of_the_design() -> None:
    for name, (width, layers, _) in UNIREP_SIZES.items():
        assert (ENCODERS["protein", name].dim, unirep.stack_of(name)) == (width, mlstm.Stack(width, layers))


def test_an_estimated_size_is_that_of_the_parameters() -> None:
    """Where no source states the bytes: float32, or float16 for the two largest; the heads are a percent or two."""
    for name, file in PUBLISHED.items():
        if not file.exact:
            assert 1 <= file.size / (file.parameters * (2 if name in ("esm2-3b", "esm2-15b") else 4)) < 1.03, name


def test_every_encoder_is_listed(program: Program, tmp_path: Path) -> None:
    told = program("embed", "models", "--json")
    rows = json.loads(told.stdout)["encoders"]
    assert [(row["modality"], row["encoder"]) for row in rows] == list(ENCODERS)
    assert {row["modality"]: row["encoder"] for row in rows if row["default"]} == DEFAULT_ENCODER
    shown = program("embed", "models").stdout.splitlines()
    assert len(shown) == 1 + len(rows) + 1
    for row, line in zip(rows, shown[1:], strict=False):
        info = ENCODERS[row["modality"], row["encoder"]]
        assert line.split()[:2] == [info.modality, info.name + "*" * row["default"]]
        assert (row["dim"], row["limit"], row["licence"]) == (info.dim, info.limit, info.licence)
        assert info.licence in line
        if info.source:
            assert (row["url"], row["pin"]) == (PUBLISHED[info.name].url, PUBLISHED[info.name].pin)
            assert f"{PUBLISHED[info.name].parameters:,}" in line.split()
            assert line.endswith("needs weights")
        elif info.load is not None:
            assert line.endswith("none needed")


def test_a_file_that_is_not_checked_is_told_from_none(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSLLM_WEIGHTS", str(tmp_path / "weights"))
    path = tmp_path / "weights" / "rnabert" / "RNABERT.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"put here by hand")
    told = {row["encoder"]: row for row in json.loads(program("embed", "models", "--json").stdout)["encoders"]}
    assert (told["rnabert"]["weights"], told["rnabert"]["unchecked"]) == (None, str(path))
    assert (told["rnafm"]["weights"], told["rnafm"]["unchecked"]) == (None, None)
    lines = {line.split()[1]: line for line in program("embed", "models").stdout.splitlines()[1:-1]}
    assert lines["rnabert"].endswith(f"not checked: {path} (embed pull rnabert checks it)")
    assert lines["rnafm"].endswith("needs weights")
    kept_path(path).write_bytes(kept_line(path, PUBLISHED["rnabert"].pin.removeprefix("sha256:")))
    told = {row["encoder"]: row for row in json.loads(program("embed", "models", "--json").stdout)["encoders"]}
    assert (told["rnabert"]["weights"], told["rnabert"]["unchecked"]) == (str(path), None)


@pytest.mark.slow
def test_models_and_pull_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom crossllm.embed.cli import embed\nembed(['models'], standalone_mode=False)\n"
        "import crossllm.embed.weights.pull\n"
        "print('LOADED', *sorted(set(sys.modules) & set('torch transformers rdkit dask zarr h5py tqdm'.split())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("facebook/esm2_t33_650M_UR50D", ["esm2-650m"]),
        ("esm2_t6_8M_UR50D.pt", ["esm2-8m"]),
        ("ESM-2 650M", ["esm2-650m"]),
        ("esm2_650m", ["esm2-650m"]),
        ("multimolecule/rinalmo-giga", ["rinalmo-giga"]),
        ("rinalmo_giga_pretrained", ["rinalmo-giga"]),
        ("rinalmo", ["rinalmo-micro", "rinalmo-mega", "rinalmo-giga"]),
        ("RNA-FM", ["rnafm"]),
        ("Mole-BERT", ["molebert"]),
        ("rnabret", ["rnabert"]),
        ("UniRep", ["unirep"]),
        ("UniRep-64", ["unirep-64"]),
        ("prot_t5_xl_uniref50", []),
        ("x", []),
    ],
)
def test_a_published_name_is_known_for_what_is_meant(name: str, meant: list[str]) -> None:
    assert [found for _, found in meant_by(name)] == meant
    with pytest.raises(InputError) as refusal:
        find_encoder("protein", name, None)
    assert ("did you mean" in str(refusal.value)) == bool(meant)
    if meant == ["rnafm"]:
        assert "did you mean rnafm --modality rna?" in str(refusal.value)
