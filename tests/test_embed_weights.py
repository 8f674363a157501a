"""Weights from others: what they must hold, and that a hostile file runs nothing."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from made_weights import random_tensors, rnabert_shapes
from safetensors.torch import save_file

from crossllm.cache import InputError
from crossllm.embed.weights.checkpoint import read_weights, select_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(2, dtype=torch.float16)}


class Evil:
    """Its pickle runs a command when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


class EvilEval(Evil):
    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"__import__('os').system({self.command!r})",)


class EvilChild(Evil):
    def __reduce__(self) -> tuple[object, ...]:
        return subprocess.call, (self.command.split(),)


def _stack_global(canary: Path) -> bytes:
    """builtins.exec by STACK_GLOBAL, which hides the name from scanners that look for GLOBAL."""
    code = f"open({str(canary)!r}, 'w').close()".encode()
    text = b"X" + len(code).to_bytes(4, "little") + code
    return b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + text + b"\x85R."


def _zip(path: Path, payload: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def _tar(path: Path, payload: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))


def _saved(make: Callable[[Path], object], new: bool = True) -> Callable[[Path, Path], None]:
    return lambda path, canary: torch.save(make(canary), path, _use_new_zipfile_serialization=new)


HOSTILE: dict[str, Callable[[Path, Path], object]] = {
    "reduce": _saved(Evil),
    "reduce, before 1.6": _saved(Evil, new=False),
    "reduce to eval": _saved(EvilEval),
    "reduce to a child process": _saved(EvilChild),
    "beside tensors": _saved(lambda canary: {**TENSORS, "z": Evil(canary)}),
    "under model": _saved(lambda canary: {"model": {**TENSORS, "z": Evil(canary)}}),
    "as a key": _saved(lambda canary: {**TENSORS, (Evil(canary),): 1}),
    "in a Namespace": _saved(lambda canary: {"model": TENSORS, "args": argparse.Namespace(x=Evil(canary))}),
    "in a Namespace, before 1.6": _saved(lambda canary: argparse.Namespace(x=[Evil(canary)]), new=False),
    "bare pickle": lambda path, canary: path.write_bytes(pickle.dumps(Evil(canary))),
    "bare pickle, protocol 0": lambda path, canary: path.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(canary)),
    "bare stack global": lambda path, canary: path.write_bytes(_stack_global(canary)),
    "stack global in a zip": lambda path, canary: _zip(path, _stack_global(canary)),
    "hand-made zip": lambda path, canary: _zip(path, pickle.dumps({"a": Evil(canary)}, protocol=2)),
    "tar": lambda path, canary: _tar(path, pickle.dumps(Evil(canary), protocol=2)),
    "tar, stack global": lambda path, canary: _tar(path, _stack_global(canary)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_runs_nothing(name: str, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "weights.pth"
    HOSTILE[name](file, canary)
    with pytest.raises(InputError, match="if you trust it, open it yourself and save its state dict"):
        read_weights(file)
    assert not canary.exists()


@pytest.mark.slow
def test_the_hostile_files_are_hostile(tmp_path: Path) -> None:
    """The control: opened without protection, each of them does run its command."""
    files = {name: tmp_path / f"{n}.pth" for n, name in enumerate(HOSTILE)}
    for name, file in files.items():
        HOSTILE[name](file, file.with_suffix(".canary"))
    code = """
import pickle, sys, torch
for path in sys.argv[1:]:
    for opened in (lambda: torch.load(path, weights_only=False), lambda: pickle.load(open(path, "rb"))):
        try:
            opened()
        except Exception:
            pass
"""
    command = [sys.executable, "-c", code, *map(str, files.values())]
    subprocess.run(command, capture_output=True, cwd=Path(__file__).parent, check=True)
    assert [name for name, file in files.items() if not file.with_suffix(".canary").exists()] == []


@pytest.mark.parametrize("name", ["reduce", "in a Namespace", "tar"])
def test_embed_run_refuses_a_hostile_file_in_one_line(name: str, program: Program, tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">x\nACGU\n")
    HOSTILE[name](tmp_path / "weights.pth", tmp_path / "canary")
    done = program(
        "embed",
        "run",
        "--modality",
        "rna",
        "-i",
        "a.fasta",
        "--encoder",
        "rnabert",
        "--weights",
        "weights.pth",
        "--quiet",
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: --weights weights.pth: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fasta", "weights.pth"]


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def _safetensors(header: bytes, data: bytes = b"") -> Callable[[Path], object]:
    return lambda path: path.write_bytes(len(header).to_bytes(8, "little") + header + data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "a folder without model"),
    "fifo": (lambda path: os.mkfifo(path), "is no plain file"),
    "empty": (lambda path: path.touch(), "is empty; copy or download it again"),
    "text": (lambda path: path.write_text("<html>Not Found</html>"), "is a web page"),
    "numpy": (_npy, "neither safetensors nor"),
    "a module": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "it holds torch.nn.modules.linear.Linear"),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "holds no state dict"),
    "numbers": (lambda path: torch.save({"a": 1.5}, path), "holds no state dict"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "holds no state dict"),
    "a Namespace": (lambda path: torch.save(argparse.Namespace(a=1), path), "holds no state dict"),
    "numbered": (lambda path: torch.save({0: torch.ones(2)}, path), "holds no state dict"),
    "gap": (_safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)), "damaged safetensors"),
    "beyond": (_safetensors(b'{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,396]}}'), "damaged safetensors"),
    "huge": (_safetensors(b'{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}', bytes(4)),
             "damaged safetensors"),
    "negative": (_safetensors(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
                 "damaged safetensors"),
    "no json": (_safetensors(b"{nothing"), "damaged safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_holds_no_weights_is_refused(name: str, tmp_path: Path) -> None:
    make, say = BAD[name]
    make(tmp_path / "weights")
    with pytest.raises(InputError, match=say) as refusal:
        read_weights(tmp_path / "weights")
    assert len(refusal.value.lines) == 1
    assert "\n" not in refusal.value.lines[0]
    assert "weights_only=False" not in refusal.value.lines[0], "torch's advice to switch the protection off"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        save(TENSORS, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for size in rng.integers(0, len(whole), 20).tolist():
            (tmp_path / "cut").write_bytes(whole[:size])
            with pytest.raises(InputError):
                read_weights(tmp_path / "cut")


def test_garbage_never_ends_in_a_traceback(tmp_path: Path, rng: np.random.Generator) -> None:
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    whole = np.frombuffer((tmp_path / "a.pth").read_bytes(), np.uint8)
    refused = 0
    for _ in range(200):
        changed = whole.copy()
        changed[rng.integers(0, len(whole), 3)] = rng.integers(0, 256, 3)
        (tmp_path / "changed").write_bytes(changed.tobytes())
        try:
            read_weights(tmp_path / "changed")
        except InputError:
            refused += 1
    assert refused


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict"])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_every_form_gives_the_same_tensors_and_the_digest_of_the_file(form: str, wrap: str, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    if form == "safetensors":
        save_file(TENSORS, file)
    else:
        held = TENSORS if wrap == "plain" else {wrap: TENSORS, "args": argparse.Namespace(layers=6, names=["x"])}
        torch.save(held, file, _use_new_zipfile_serialization=form == "zip")
    found, digest = read_weights(file)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    done = subprocess.run(["sha256sum", str(file)], capture_output=True, text=True)
    assert digest == done.stdout.split()[0]


def test_only_the_tensors_of_this_encoder_are_taken(tmp_path: Path) -> None:
    shapes = {"a": (2, 3), "b.c": (2,)}
    path = tmp_path / "w.pth"
    assert select_tensors(path, TENSORS, shapes, "")["b.c"].dtype == torch.float16
    with pytest.raises(InputError, match=r"w\.pth: not the weights of this encoder: d is missing; b\.c is not one of"):
        select_tensors(path, TENSORS, {"a": (2, 3), "d": (1,)}, "")
    with pytest.raises(InputError, match=r"a has shape \(2, 3\), \(3, 2\) is expected"):
        select_tensors(path, TENSORS, {"a": (3, 2), "b.c": (2,)}, "")
    with pytest.raises(InputError, match=r"a is of type torch.int64, a floating type is expected"):
        select_tensors(path, {"a": torch.ones(2, dtype=torch.int64)}, {"a": (2,)}, "")
    with pytest.raises(InputError, match=r"; and 6 more like these"):
        select_tensors(path, {}, {str(n): (1,) for n in range(9)}, "")
    assert list(select_tensors(path, TENSORS, {"a": (2, 3)}, r"b\..*")) == ["a"]


def test_another_encoders_weights_are_refused_in_one_line(
    program: Program, tmp_path: Path, rng: np.random.Generator
) -> None:
    shapes = rnabert_shapes(layers=5)
    save_file(random_tensors(shapes, rng), tmp_path / "w.safetensors")
    (tmp_path / "a.fasta").write_text(">x\nACGU\n")
    done = program(
        "embed",
        "run",
        "--modality",
        "rna",
        "-i",
        "a.fasta",
        "--encoder",
        "rnabert",
        "--weights",
        "w.safetensors",
        "--quiet",
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "layers.5.query.weight is missing" in done.stderr
    assert "13 more" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fasta", "w.safetensors"]


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will drop them one day
        return torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)


NOT_PLAIN: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse": (lambda: torch.ones(2, 3).to_sparse(), "of layout sparse_coo"),
    "sparse rows": (lambda: torch.ones(2, 3).to_sparse_csr(), "of layout sparse_csr"),
    "meta": (lambda: torch.ones(2, 3, device="meta"), r"without values \(device meta\)"),
    "quantised": (_quantised, "quantised"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_a_tensor_that_is_not_plain_is_refused(kind: str, tmp_path: Path) -> None:
    make, say = NOT_PLAIN[kind]
    with pytest.raises(InputError, match=f"not the weights of this encoder: a is not a plain tensor: it is {say}"):
        select_tensors(tmp_path / "w.pth", {"a": make()}, {"a": (2, 3)}, "")


def test_embed_run_refuses_sparse_weights_before_it_writes(
    program: Program, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = random_tensors(rnabert_shapes(), rng)
    name = next(iter(tensors))
    torch.save(tensors | {name: tensors[name].to_sparse()}, tmp_path / "w.pth")
    (tmp_path / "a.fasta").write_text(">x\nACGU\n")
    done = program(
        "embed", "run", "--modality", "rna", "-i", "a.fasta", "--encoder", "rnabert", "--weights", "w.pth", "--quiet"
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "tokens.weight is not a plain tensor" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fasta", "w.pth"]


def test_weights_that_ask_for_gradients_are_taken_without(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Parameter(TENSORS["a"])}, tmp_path / "w.pth")
    (found,) = select_tensors(tmp_path / "w.pth", read_weights(tmp_path / "w.pth")[0], {"a": (2, 3)}, "").values()
    assert torch.equal(found, TENSORS["a"])
    assert not found.requires_grad


def test_a_zip_bomb_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"ignored": torch.zeros(1 << 20), **TENSORS}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert (tmp_path / "bomb.pth").stat().st_size < 40_000
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match="it unpacks to more than torch ever writes; damaged or a decompression bomb"):
        read_weights(tmp_path / "bomb.pth")
