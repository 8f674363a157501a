"""NumPy's `.npz` as weights: plain arrays alone, nothing run, nothing unpacked, no more memory than the file has."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from crossllm.cache import InputError
from crossllm.embed.weights import checkpoint
from crossllm.embed.weights.checkpoint import read_weights, weights_digest

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.ones(4, np.float32)}


class Evil:
    """A pickle that makes a file when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def headed(shape: str, data: bytes = b"", kind: str = "<f4", version: int = 1) -> bytes:
    """An `.npy` whose header says what it likes."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def archive(path: Path, members: dict[str, bytes], packed: bool = False) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy", data)


@pytest.fixture(params=[False, True], ids=["small", "large"])
def as_large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as a file that is not read whole before it is opened."""
    if request.param:
        monkeypatch.setattr(checkpoint, "_MAPPED_FROM", 0)


@pytest.mark.usefixtures("as_large")
def test_arrays_are_read_by_name_and_digested(tmp_path: Path) -> None:
    more = {"columns": np.asfortranarray(ARRAYS["a"]), "big": ARRAYS["a"].astype(">f8"), "one": np.float32(3)}
    np.savez(tmp_path / "w.npz", **ARRAYS, **more)  # type: ignore[arg-type]
    found, digest = read_weights(tmp_path / "w.npz")
    assert digest == weights_digest(tmp_path / "w.npz")
    assert list(found) == [*ARRAYS, *more]
    for name, array in (ARRAYS | more).items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name].numpy(), array), name
    assert (found["a"].dtype, found["big"].dtype) == (torch.float32, torch.float64)
    found["a"] += 1  # memory of its own


def test_the_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **ARRAYS)  # type: ignore[arg-type]
    (tmp_path / "w.npz").rename(tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")[0].keys() == ARRAYS.keys()


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a.npy", npy(ARRAYS["a"]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("a.npy", npy(ARRAYS["a"]))


def encrypted(path: Path) -> None:
    archive(path, {"a": npy(ARRAYS["a"])})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def larger_than_it_is(path: Path) -> None:
    """The list at the end says that the only member has a gigabyte."""
    archive(path, {"a": headed("(268435456,)")})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(data)


def flipped(path: Path) -> None:
    archive(path, {"a": npy(ARRAYS["a"])})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") - 1] ^= 1
    path.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "objects": (lambda path: archive(path, {"a": npy(np.array([None, 1]))}), "Python objects in 'a'"),
    "objects in a record": (
        lambda path: archive(path, {"a": npy(np.array([(None, 1)], [("x", object), ("y", "f4")]))}), "Python objects",
    ),
    "text": (lambda path: archive(path, {"a": npy(np.array(["x"]))}), "'a' of type <U1, plain numbers"),
    "complex": (lambda path: archive(path, {"a": npy(np.ones(1, complex))}), "'a' of type complex128, plain numbers"),
    "a record": (lambda path: archive(path, {"a": npy(np.ones(1, [("x", "f4")]))}), "plain numbers are expected"),
    "dates": (lambda path: archive(path, {"a": npy(np.array(["2020"], "M8[D]"))}), "plain numbers are expected"),
    "compressed": (lambda path: archive(path, {"a": npy(np.zeros(99))}, packed=True), "is compressed; save it again"),
    "twice": (twice, "an array twice"),
    "encrypted": (encrypted, "is encrypted"),
    "larger than it is": (larger_than_it_is, "more bytes than it has"),
    "flipped": (flipped, r"is damaged \(Bad CRC-32"),
    "shape too large": (lambda path: archive(path, {"a": headed("(9,)", bytes(32))}), r"its shape \(9,\) has"),
    "shape too small": (lambda path: archive(path, {"a": headed("(7,)", bytes(32))}), r"its shape \(7,\) has"),
    "huge": (lambda path: archive(path, {"a": headed("(9223372036854775807, 9)", bytes(4))}), "other bytes than"),
    "negative": (lambda path: archive(path, {"a": headed("(-1, -1)", bytes(4))}), "other bytes than"),
    "no shape": (lambda path: archive(path, {"a": headed("'x'", bytes(4))}), "header that cannot be read"),
    "no type": (lambda path: archive(path, {"a": headed("(1,)", bytes(4), "<q9")}), "header that cannot be read"),
    "version 3": (lambda path: archive(path, {"a": headed("(1,)", bytes(4), version=3)}), r"version 3.0 of the .npy"),
    "a long header": (
        lambda path: archive(path, {"a": headed("(1," + " " * 20_000 + ")", bytes(4))}), "header that cannot be read",
    ),
    "no npy": (lambda path: archive(path, {"a": b"nothing"}), "is damaged"),
    "nothing": (lambda path: archive(path, {"a": b""}), "is damaged"),
}  # fmt: skip


@pytest.mark.usefixtures("as_large")
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_archive_of_plain_arrays_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, say = BAD[name]
    make(tmp_path / "w.npz")
    with pytest.raises(InputError, match=f"--weights .*w.npz: an .npz that .*{say}") as refusal:
        read_weights(tmp_path / "w.npz")
    (line,) = refusal.value.lines
    assert line.isprintable()


def test_a_pickle_inside_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    array = np.empty(1, object)
    array[0] = Evil(canary)
    members = {"a": headed("(1,)", pickle.dumps(array), "|O"), "b": pickle.dumps(Evil(canary))}
    for name, data in members.items():
        archive(tmp_path / f"{name}.npz", {name: data})
        with pytest.raises(InputError):
            read_weights(tmp_path / f"{name}.npz")
    assert not canary.exists()
    pickle.loads(members["b"])
    assert canary.exists(), "the control: opened, it does make it"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "w.npz", **ARRAYS)  # type: ignore[arg-type]
    whole = (tmp_path / "w.npz").read_bytes()
    for size in rng.integers(0, len(whole), 30).tolist():
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_weights(tmp_path / "cut")


def test_a_flipped_bit_ends_in_a_refusal_or_in_arrays(tmp_path: Path, rng: np.random.Generator) -> None:
    """In no other error: what is not noticed here has another digest."""
    np.savez(tmp_path / "w.npz", **ARRAYS)  # type: ignore[arg-type]
    whole = (tmp_path / "w.npz").read_bytes()
    for place in rng.integers(0, len(whole), 300).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "flipped").write_bytes(data)
        with suppress(InputError):
            read_weights(tmp_path / "flipped")
