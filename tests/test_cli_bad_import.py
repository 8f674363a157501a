"""Bad embeddings from elsewhere: exit code, one line that says what and where, nothing run, nothing left behind."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Program
from foreign import (
    CANARY,
    DIM,
    Payload,
    Rows,
    assert_import_refused,
    assert_payload_skipped,
    cut_short,
    rows_for,
    run,
    write_bytes,
    write_hdf5,
    write_npy,
)
from numpy.lib import format as npy_format


def _hdf5(change: Callable[[h5py.File, Path], object]) -> Callable[[Path, Rows], Path]:
    """A sound file, then something done to it; a second file `other.h5` lies beside it."""

    def make(folder: Path, rows: Rows) -> Path:
        write_hdf5(folder / "other.h5", rows)
        path = write_hdf5(folder / "x.h5", {id_: values for id_, values in rows.items() if id_ != "a"})
        with h5py.File(path, "a") as file:
            change(file, folder)
        return path

    return make


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4, DIM), "f2")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "a", (4, DIM))
    file.create_virtual_dataset("a", layout)


def _external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(4 * DIM * 2))
    file.create_dataset("a", (4, DIM), "f2", external=[(str(folder / "raw"), 0, 4 * DIM * 2)])


def _unknown_filter(file: h5py.File, folder: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4, DIM))
    plist.set_scaleoffset(h5py.h5z.SO_FLOAT_DSCALE, 2)
    h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, DIM)), plist)


def _some_chunks(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a", (4, DIM), "f2", chunks=(2, DIM))[:2] = 1


def _bomb(file: h5py.File, folder: Path) -> None:
    zeros = np.zeros((1 << 20, 64), "f4")
    file.create_dataset("a", data=zeros, compression="gzip", compression_opts=9, chunks=zeros.shape)


def _replace(**changed: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Rows], Path]:
    def make(folder: Path, rows: Rows) -> Path:
        new = {id_: changed[id_](values) if id_ in changed else values for id_, values in rows.items()}
        return write_hdf5(folder / "x.h5", new)

    return make


def _filled(value: float, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        new = rows.astype(dtype)
        new[1, 2] = value
        return new

    return change


def _npy(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path, Rows], Path]:
    """A folder of sound arrays with one bad file in it."""

    def make(folder: Path, rows: Rows) -> Path:
        path = write_npy(folder / "x", rows)
        (path / name).write_bytes(data if isinstance(data, bytes) else data())
        return path

    return make


def _npy_bytes(values: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An npy file whose header may say another shape."""
    out = io.BytesIO()
    described = npy_format.header_data_from_array_1_0(values)
    npy_format.write_array_header_1_0(out, described | {"shape": shape or values.shape})
    return out.getvalue() + values.tobytes()


def _npy_pickle() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Payload()], object), allow_pickle=True)
    return out.getvalue()


def _folder(*names: str) -> Callable[[Path, Rows], Path]:
    def make(folder: Path, rows: Rows) -> Path:
        (folder / "x").mkdir()
        for name in names:
            (folder / "x" / name).write_text("hello")
        return folder / "x"

    return make


def _two_layouts(folder: Path, rows: Rows) -> Path:
    path = write_npy(folder / "x", rows)
    write_hdf5(path / "more.h5", rows)
    return path


def _fifo(folder: Path, rows: Rows) -> Path:
    os.mkfifo(folder / "x.h5")
    return folder / "x.h5"


def _mapping(folder: Path, rows: Rows) -> Path:
    path = write_npy(folder / "x", rows)
    (path / "mapping.tsv").write_text("name\tid\tkey\na\ta\tnot hex\n")
    return path


def _different_twice(folder: Path, rows: Rows) -> Path:
    return write_hdf5(folder / "x.h5", rows | {"a2": rows["a"] + 1})


def _closed(folder: Path, rows: Rows) -> Path:
    path = write_npy(folder / "x", rows)
    (path / "sub").mkdir()  # root may read everything: `closed_sub` stands for its permissions
    return path


@pytest.fixture(autouse=True)
def _closed_sub(monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str | int = ".") -> object:
        if Path(str(path)).name == "sub":  # it may be a descriptor
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


# name → (how the input is made, what the line must say)
BAD: dict[str, tuple[Callable[[Path, Rows], Path], str]] = {
    "missing": (lambda folder, rows: folder / "x.h5", "no such file or folder"),
    "empty file": (write_bytes("x.h5", b""), "is empty"),
    "fifo": (_fifo, "not a regular file"),
    "empty folder": (_folder(), "holds no embeddings"),
    "folder of other files": (_folder("readme.txt"), "holds no embeddings"),
    "folder with an empty npy": (_npy("d.npy", b""), "is empty"),
    "folder that cannot be read": (_closed, "/x/sub: cannot be read (Permission denied) (record sub); check its"),
    "two layouts": (_two_layouts, "one layout is expected"),
    "text named h5": (write_bytes("x.h5", b"no HDF5 at all, sorry"), "begins with 'no HDF5"),
    "npz": (lambda folder, rows: (np.savez(folder / "x.npz", **rows), folder / "x.npz")[1], "is an .npz archive"),
    "mapping damaged": (_mapping, "mapping.tsv:2"),
    "hdf5 cut short": (cut_short(write_hdf5, "x.h5", 200), "open file (truncated file"),
    "hdf5 external link": (
        _hdf5(lambda file, folder: file.__setitem__("a", h5py.ExternalLink(str(folder / "other.h5"), "/a"))),
        "is an external link, which is never followed (record a)",
    ),
    "hdf5 soft link": (_hdf5(lambda file, _: file.__setitem__("a", h5py.SoftLink("/b"))), "is a soft link"),
    "hdf5 virtual": (_hdf5(_virtual), "is a virtual dataset"),
    "hdf5 name that is not UTF-8": (
        _hdf5(lambda file, _: h5py.h5g.create(file.id, b"\xff\xfe")),
        "its name is not UTF-8 (record \\xff\\xfe); rename it",
    ),
    "hdf5 external storage": (_hdf5(_external_storage), "external storage"),
    "hdf5 unknown filter": (_hdf5(_unknown_filter), "HDF5 filter 6 where gzip"),
    "hdf5 chunks never written": (_hdf5(_some_chunks), "1 of 2 chunks were ever written"),
    "hdf5 never written": (_hdf5(lambda file, _: file.create_dataset("a", (4, DIM), "f2")), "never written"),
    "hdf5 bomb": (_hdf5(_bomb), "decompression bomb"),
    "hdf5 objects": (
        _hdf5(lambda file, _: file.create_dataset("a", data=["x"] * 4, dtype=h5py.string_dtype())),
        "type object where float16",
    ),
    "hdf5 group of nothing": (lambda folder, rows: write_hdf5(folder / "x.h5", {}), "holds no arrays"),
    "integers": (_replace(a=lambda rows: rows.astype("i4")), "type int32 where float16"),
    "complex": (_replace(a=lambda rows: rows.astype("c8")), "type complex64 where float16"),
    "three dimensions": (_replace(a=lambda rows: np.stack([rows, rows])), "shape (2, 4, 6) where (L, D)"),
    "pooled": (_replace(a=lambda rows: rows.mean(axis=0)), "one vector of 6 where rows (L, D)"),
    "another width": (_replace(b=lambda rows: rows[:, :5]), "rows of 5 values where most arrays have 6"),
    "one row more": (_replace(b=lambda rows: np.vstack([rows, rows[:1]])), "6 rows where its sequence has 5"),
    "two rows more": (_replace(b=lambda rows: np.vstack([rows, rows[:2]])), "two rows of BOS or EOS kept? strip"),
    "a row less": (_replace(b=lambda rows: rows[1:]), "was the model's input cut?"),
    "nan": (_replace(a=_filled(np.nan, "f2")), "nan at row 1, column 2"),
    "infinite": (_replace(a=_filled(-np.inf, "f4")), "-inf at row 1, column 2"),
    "overflow": (_replace(a=_filled(1e6, "f4")), "magnitude 1e+06 overflows float16"),
    "no id matches": (
        lambda folder, rows: write_hdf5(folder / "x.h5", {f"other{id_}": values for id_, values in rows.items()}),
        "called e.g. 'othera', the sequences e.g. 'a'",
    ),
    "two arrays of one sequence": (_different_twice, "'a' and 'a2' hold different rows"),
    "npy pickle": (_npy("a.npy", _npy_pickle), "holds Python objects (a pickle), which are never opened"),
    "npy cut short": (_npy("a.npy", _npy_bytes(np.ones((4, DIM)))[:-8]), "312 bytes where its header"),
    "npy with a huge shape": (_npy("a.npy", _npy_bytes(np.ones((4, DIM)), (1 << 40, DIM))), "is cut short or damaged"),
    "npy with a bad header": (_npy("a.npy", b"\x93NUMPY\x01\x00\x05\x00{'x'}"), "npy header cannot be read"),
    "npy header without an end": (_npy("a.npy", b"\x93NUMPY\x01\x00\x03\x00{'x"), "npy header cannot be read"),
    "npy of a newer version": (_npy("a.npy", b"\x93NUMPY\x03\x00\x05\x00\x00\x00{'x'}"), "npy version 3.0"),
}


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["npy pickle"])
def test_a_payload_would_run_but_for_us(
    name: str, tmp_path: Path, rng: np.random.Generator, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive control of the canary, and the whole program with `skip`: the payload is left out, never run."""
    monkeypatch.chdir(tmp_path)
    assert_payload_skipped(program, tmp_path, BAD[name][0](tmp_path, rows_for(rng)))
    np.load(tmp_path / "x" / "a.npy", allow_pickle=True)
    assert (tmp_path / CANARY).exists(), "the payload is no payload"


def test_one_bad_name_is_left_out_under_skip(tmp_path: Path, rng: np.random.Generator) -> None:
    path = BAD["hdf5 name that is not UTF-8"][0](tmp_path, rows_for(rng))
    done = run(tmp_path, path, on_bad="skip")
    assert (done.imported, done.skipped) == (2, 1)
