"""Bad `.pt` and safetensors files for `crossllm cache import`: refused in one line, nothing run, nothing left."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from foreign import (
    CANARY,
    DIM,
    SEQUENCES,
    Payload,
    Rows,
    assert_import_refused,
    assert_payload_skipped,
    assert_same_bits,
    cut_short,
    keyed,
    rows_for,
    run,
    stored,
    write_bytes,
    write_pt,
    write_safetensors,
)

from crossllm.cache import choose_recipe


def _pt(held: object, name: str = "a.pt") -> Callable[[Path, Rows], Path]:
    def make(folder: Path, rows: Rows) -> Path:
        path = write_pt(folder / "x", rows)
        torch.save(held, path / name)
        return path

    return make


def _pt_old(folder: Path, rows: Rows) -> Path:
    path = write_pt(folder / "x", rows)
    (path / "a.pt").write_bytes(pickle.dumps(Payload()))
    return path


def _pt_packed(folder: Path, rows: Rows) -> Path:
    path = write_pt(folder / "x", rows)
    with zipfile.ZipFile(path / "a.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def _pt_layers(folder: Path, rows: Rows) -> Path:
    return write_pt(folder / "x", rows, layers=(6, 33))


def _safetensors(header: object, data: bytes = b"", size: int | None = None) -> Callable[[Path, Rows], Path]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return write_bytes("x.safetensors", struct.pack("<Q", len(text) if size is None else size) + text + data)


def _one(begin: int, end: int, shape: tuple[int, ...] = (4, DIM)) -> dict[str, object]:
    return {"a": {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}}


def _index(folder: Path, rows: Rows) -> Path:
    (folder / "x").mkdir()
    write_safetensors(folder / "x" / "m1.safetensors", rows)
    index = {"weight_map": {**dict.fromkeys(rows, "m1.safetensors"), "d": "m2.safetensors"}}
    (folder / "x" / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "x"


def _index_path(folder: Path, rows: Rows) -> Path:
    path = _index(folder, rows)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../m1.safetensors"}}))
    return path


def _fifo_index(folder: Path, rows: Rows) -> Path:
    (folder / "x").mkdir()
    write_safetensors(folder / "x" / "m1.safetensors", rows)
    os.mkfifo(folder / "x" / "model.safetensors.index.json")
    return folder / "x"


def _layers(*names: object) -> Callable[[Path, Rows], Path]:
    return _pt({"label": "a", "representations": {name: torch.ones(4, DIM) for name in names}})


def _tensor(make: Callable[[], torch.Tensor]) -> Callable[[Path, Rows], Path]:
    return lambda folder, rows: _pt({"label": "a", "representations": {33: make()}})(folder, rows)


def _nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype of torch's
        return torch.nested.nested_tensor([torch.ones(2, DIM), torch.ones(2, DIM)])


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will drop them one day
        return torch.quantize_per_tensor(torch.ones(4, DIM), 0.1, 0, torch.qint8)


# name → (how the input is made, what the line must say)
BAD: dict[str, tuple[Callable[[Path, Rows], Path], str]] = {
    "pt pickle": (_pt({"label": "a", "representations": {33: Payload()}}), "not opened, as it could run code"),
    "pt pickle of old torch": (_pt_old, "bare pickle"),
    "pt not a dict": (_pt([torch.ones(4, DIM)]), "has no 'representations'"),
    "pt pooled": (_pt({"label": "a", "mean_representations": {33: torch.ones(DIM)}}), "--include per_tok"),
    "pt of another layer": (
        _pt({"label": "c", "representations": {12: torch.ones(7, DIM)}}, "c.pt"),
        "has no rows of layer 33, only of 12 (record c)",
    ),
    "pt packed": (_pt_packed, "unpacks to more than torch ever writes"),
    "pt expanded": (
        _pt({"label": "a", "representations": {33: torch.ones(1, DIM).expand(4, DIM)}}),
        "declares more values than it holds",
    ),
    "pt of several layers": (_pt_layers, "holds the layers 6, 33; choose one, e.g. --layer 33"),
    "safetensors cut short": (cut_short(write_safetensors, "x.safetensors", 8), "is no sound safetensors file"),
    "safetensors header is no json": (_safetensors(b"{'a': 1}"), "its header is damaged"),
    "safetensors header too large": (_safetensors({}, size=1 << 40), "a header of 1099511627776 bytes"),
    "safetensors name twice": (_safetensors(b'{"a":{},"a":{}}'), "a key stands twice"),
    "safetensors too deep": (_safetensors(b'{"a":' + b"[" * 200_000), "its header is damaged"),
    "safetensors huge shape": (_safetensors(_one(0, 48, (1 << 60, DIM)), bytes(48)), "is no sound safetensors file"),
    "safetensors outside": (_safetensors(_one(0, 1 << 40)), "is no sound safetensors file"),
    "safetensors integers": (
        _safetensors({"a": {"dtype": "I16", "shape": (4, DIM), "data_offsets": [0, 48]}}, bytes(48)),
        "type I16 where float16",
    ),
    "safetensors shard missing": (_index, "m2.safetensors, which lacks it (record d); a shard is missing"),
    "safetensors index with a path": (_index_path, "weight_map is no table"),
    "safetensors index that is a pipe": (_fifo_index, "model.safetensors.index.json: is no regular file; remove it"),
    "pt meta": (_tensor(lambda: torch.ones(4, DIM, device="meta")), "a tensor without values (device meta) where"),
    "pt nested": (_tensor(_nested), "a tensor nested where a plain one"),
    "pt sparse": (_tensor(lambda: torch.ones(4, DIM).to_sparse()), "a tensor of layout sparse_coo where a plain one"),
    "pt quantised": (
        _tensor(_quantised),
        "a tensor quantised where a plain one",
    ),
    "pt layer of control characters": (_layers("a\nb"), "names a layer 'a\\nb' by other than a number or 1 to 64"),
    "pt layer of a long name": (_layers("x" * 65), "by other than a number or 1 to 64"),
    "pt layer of no name": (_layers(""), "by other than a number or 1 to 64"),
    "pt layer of a number without end": (_layers(1 << 40), "names a layer by other than a number"),
    "pt layer that is a tuple": (_layers((3, 3)), "names a layer by other than a number"),
    "pt layer twice": (_layers(33, "33"), "holds the layer 33 twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_embeddings(
    name: str,
    tmp_path: Path,
    rng: np.random.Generator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, say = BAD[name]
    monkeypatch.chdir(tmp_path)
    assert_import_refused(capsys, tmp_path, lambda: make(tmp_path, rows_for(rng)), say)


@pytest.mark.parametrize("name", ["pt pickle", "pt pickle of old torch"])
def test_a_payload_would_run_but_for_us(
    name: str, tmp_path: Path, rng: np.random.Generator, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive control of the canary, and the whole program with `skip`: the payload is left out, never run."""
    monkeypatch.chdir(tmp_path)
    assert_payload_skipped(program, tmp_path, BAD[name][0](tmp_path, rows_for(rng)))
    bad = tmp_path / "x" / "a.pt"
    if zipfile.is_zipfile(bad):
        torch.load(bad, weights_only=False)
    else:
        pickle.loads(bad.read_bytes())
    assert (tmp_path / CANARY).exists(), "the payload is no payload"


def _negated(rows: np.ndarray) -> torch.Tensor:
    """The same values as an imaginary part read conjugated: torch puts the negation off."""
    return torch.complex(torch.zeros(rows.shape), -torch.from_numpy(rows.astype("f4"))).conj().imag


KINDS: dict[str, Callable[[np.ndarray], torch.Tensor]] = {
    "requires grad": lambda rows: torch.from_numpy(rows).requires_grad_(),
    "parameter": lambda rows: torch.nn.Parameter(torch.from_numpy(rows)),
    "negation put off": _negated,
    "of a larger storage": lambda rows: torch.from_numpy(np.hstack([rows, rows]))[:, :DIM],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_plain_numbers_is_read(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    path = write_pt(tmp_path / "x", rows)
    torch.save({"label": "a", "representations": {33: KINDS[kind](rows["a"])}}, path / "a.pt")
    run(tmp_path, path)
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


def test_a_layer_may_have_a_name(tmp_path: Path, rng: np.random.Generator) -> None:
    path, rows = tmp_path / "x", rows_for(rng)
    path.mkdir()
    for id_, values in rows.items():
        held = {"label": id_, "representations": {"last.hidden-2": torch.from_numpy(values)}}
        torch.save(held, path / f"{id_}.pt")
    run(tmp_path, path)
    assert choose_recipe(tmp_path / "c", "rna").layer == "last.hidden-2"
