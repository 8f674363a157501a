"""What a file is, is seen in its first bytes and said by every reader alike."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from crossllm.cache import InputError, read_records
from crossllm.embed.foreign.entry import BadEntry
from crossllm.embed.foreign.hdf5 import Hdf5Child
from crossllm.embed.foreign.layouts import sniff
from crossllm.embed.weights.checkpoint import read_weights
from crossllm.pipeline.data.pairs import read_pairs


def workbook() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as book:
        book.writestr("[Content_Types].xml", '<?xml version="1.0"?><Types/>')
        book.writestr("xl/workbook.xml", '<?xml version="1.0"?><workbook/>')
    return data.getvalue()


# What any reader calls it: name → bytes, what is said
ANYWHERE: dict[str, tuple[bytes, str]] = {
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "is a pointer of Git LFS"),
    "web page": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>\n", "is a web page, perhaps of a login"),
    "xml": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n', "is an XML file"),
    "xlsx": (workbook(), "is a workbook of Excel (.xlsx); save the sheet as CSV"),
    "xls": (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504), "is a workbook of old Excel (.xls)"),
}  # fmt: skip
TEXT: dict[str, tuple[bytes, str]] = {
    "json": (b'{"records": []}\n', "is a JSON file"),
    "json list": (b'[\n {"id": 1}]\n', "is a JSON file"),
    "json table": (b"[\n [1, 2]]\n", "is a JSON file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "zip": (b"PK\x03\x04rest", "is a zip archive"),
    "xz": (b"\xfd7zXZ\x00rest", "is an xz file"),
    "npy": (b"\x93NUMPY\x01\x00", "is an .npy array"),
    "pdf": (b"%PDF-1.7\n", "is a PDF document"),
    "page in gzip": (gzip.compress(b"<html><body>no</body></html>"), "unpacked, is a web page"),
}
SEQUENCES: dict[str, tuple[str, str]] = {
    "stockholm": ("# STOCKHOLM 1.0\n#=GF ID x\nZ/1-4 ACGU\n//\n", "is a Stockholm alignment; convert it to FASTA"),
    "fastq": ("@read1\nACGU\n+\n>>>>\n@read2\nGGCC\n+\n>III\n", "is a FASTQ file; convert it to FASTA"),
    "clustal": ("CLUSTAL W (1.8)\n\nx  ACGU\n", "is a Clustal alignment"),
    "genbank": ("LOCUS       NC_1   4 bp\n", "is a GenBank file"),
    "mol2": ("@<TRIPOS>MOLECULE\nx\n", "is a MOL2 file"),
    "dot-bracket": (
        ">h1\nGGGGAAAACCCC\n((((....))))\n",
        "structures in dot-bracket lines ('((((....))))')",
    ),
    "vienna's energies": (">h1\nAGGGGAAAACCCCA\n.((((....)))). (-2.10)\n>h2\nGGG\n", "dot-bracket lines"),
    "comments": ("# made up\n>h1\nACGU\n", "is FASTA below '#' comment lines; remove the lines before"),
    "sdf": ("x\n\n\n  0  0  0 V2000\nM  END\n$$$$\n", "is an SD file of molecules; rna is FASTA"),
}


def by_weights(path: Path) -> object:
    return read_weights(path)


def by_foreign(path: Path) -> object:
    try:
        return sniff(path)
    except BadEntry as bad:
        raise InputError(str(bad)) from None


TEXT_READERS: dict[str, Callable[[Path], object]] = {
    "rna": lambda path: read_records(path, "rna", "skip"),
    "protein": lambda path: read_records(path, "protein"),
    "molecule": lambda path: read_records(path, "molecule", "skip"),
    "pairs": lambda path: read_pairs(path, on_bad="skip"),
}
READERS = TEXT_READERS | {"weights": by_weights, "foreign": by_foreign}


def said(read: Callable[[Path], object], path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InputError) as refusal:
        read(path)
    (line,) = refusal.value.lines
    return line


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ANYWHERE)
def test_every_reader_calls_it_by_its_name(tmp_path: Path, kind: str, reader: str) -> None:
    data, say = ANYWHERE[kind]
    assert say in said(READERS[reader], tmp_path / "file.pt", data)


@pytest.mark.parametrize("reader", TEXT_READERS)
@pytest.mark.parametrize("kind", TEXT)
def test_every_reader_of_text_calls_it_by_its_name(tmp_path: Path, kind: str, reader: str) -> None:
    data, say = TEXT[kind]
    assert say in said(TEXT_READERS[reader], tmp_path / "file.txt", data)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_in_other_forms(tmp_path: Path, kind: str) -> None:
    text, say = SEQUENCES[kind]
    for data in (text.encode(), text.replace("\n", "\r\n").encode(), gzip.compress(text.encode())):
        assert say in said(TEXT_READERS["rna"], tmp_path / "file.txt", data)


def test_other_files_in_place_of_molecules_weights_and_embeddings(tmp_path: Path) -> None:
    assert "is FASTA; molecules are SMILES" in said(TEXT_READERS["molecule"], tmp_path / "m", b">x\nACGU\n")
    assert "is a MOL2 file" in said(TEXT_READERS["molecule"], tmp_path / "m", b"@<TRIPOS>MOLECULE\nx\n")
    assert "is empty; copy or download it again" in said(by_weights, tmp_path / "w.pt", b"")
    assert "is empty; copy or download it again" in said(by_foreign, tmp_path / "w.pt", b"")
    assert "is a gzip file; unpack it first" in said(by_weights, tmp_path / "w.pt", gzip.compress(b"x"))
    assert "is a gzip file; unpack it first" in said(by_foreign, tmp_path / "w.pt", gzip.compress(b"x"))
    assert "is a JSON file, and holds no embeddings" in said(by_foreign, tmp_path / "w.pt", b'{"a": 1}')


@pytest.mark.parametrize(
    ("modality", "text"),
    [
        ("molecule", "data_1\tC\n"), ("molecule", "#1\tC\n"), ("molecule", "[13CH3]\tC\n"), ("molecule", "@x\tC\n"),
        ("molecule", "<a>\tC\n"), ("molecule", ">\tC\n"), ("molecule", '{"\tC\n'),
        ("molecule", ">a\tC\n>b\tCC\n"), ("rna", ">x\nAC\n>.\nAC\n"),
        ("rna", ">x\nACGU\n>y\nACGUACGU\n"), ("rna", "\ufeff>x <b>\nACGU\n"),
        ("protein", ">.()\nMKV\n"),
    ],
)  # fmt: skip
def test_sound_files_that_look_a_little_like_it(tmp_path: Path, modality: str, text: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text(text)
    assert read_records(path, modality).records


def test_a_locked_hdf5_file_is_said_to_be_locked(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e.h5", "w", libver="latest") as file:
        file["x"] = np.ones((4, 2), np.float32)
        file.flush()
        with pytest.raises(InputError, match=re.escape("is locked, another program has it open for writing or died")):
            Hdf5Child(tmp_path / "e.h5")
