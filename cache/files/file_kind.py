"""What a file is, by one look at its first bytes: shared by every reader, so that a wrong file is called by its name.

Each kind says what it is and what to do; a reader asks before it complains of the first line.
"""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

from crossllm.cache.errors import printable

LOOK = 4096
"""Bytes that are looked at."""
_UNPACK = "unpack it first (gzip and plain text are read as they are)"
_CONVERT = "convert it to FASTA (one '>id' header, then the sequence without gaps)"
_SHEET = "save the sheet as CSV (UTF-8) and give that file"
_MAGIC = {
    b"\xfd7zXZ\x00": ("an xz file", _UNPACK), b"BZh": ("a bzip2 file", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd file", _UNPACK), b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", "give the file it was made from"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a workbook of old Excel (.xls)", _SHEET),
    b"%PDF-": ("a PDF document", "give the data behind it"), b"\x93NUMPY": ("an .npy array", "give a text file"),
    b"PAR1": ("a Parquet file", "save it as CSV"), b"SQLite format 3\x00": ("an SQLite database", "export it as CSV"),
    b"\x7fELF": ("a program", "check the path"), b"\x89PNG": ("a picture", "check the path"),
}  # fmt: skip
_ZIP = b"PK\x03\x04"
_LFS = b"version https://git-lfs"
_POINTER = ("a pointer of Git LFS, not the file", "`git lfs pull` fetches it")
_JSON = re.compile(rb'\{\s*["}]|\[\s*(\{|\[\s*["0-9-])')
_GZIP = b"\x1f\x8b"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_COMMENTS = re.compile(rb"(<!--.*?-->\s*)+", re.DOTALL)
_STATUS = re.compile(
    rb"([45]\d\d:? )?(error:? )?(page not found|not found|forbidden|unauthorized|bad request|too many requests|"
    rb"internal server error|bad gateway|service unavailable|gateway time-?out)[.!]?\s*"
)
"""What a web server says in place of a file: '404: Not Found'."""
_ATOM_LINE = re.compile(r"(ATOM  |HETATM)[ 0-9]{5} |MODEL {5,}\d+$|CRYST1 +[0-9.]+ |REMARK +\d+ |TITLE {5}")
_SAM = re.compile(r"@(HD|SQ|RG|PG|CO)\t[A-Z]{2}:|[^\t]+\t\d+\t[^\t]+\t\d+\t\d+\t(\*|([0-9]+[MIDNSHP=X])+)\t")
_GFF = re.compile(r"[^\t]+\t[^\t]+\t[^\t]+\t\d+\t\d+\t[^\t]+\t[-+.?]\t[.012]\t")
_BED = re.compile(r"[^\t]+\t\d+\t\d+(\t.*)?|track .*name=.*")
_PHYLIP = re.compile(r"\d+\s+\d+")
_PHYLIP_ROW = re.compile(r"\S+\s+[A-Za-z?*. -]+|\S{10}[A-Za-z?* -]+")
_INTERVALS = "give the sequences themselves as FASTA, e.g. by `bedtools getfasta`"
_PAIRS = "give the table of pairs: ids of both sides and a label, with a header line"
_PIR = re.compile(r">(P1|F1|DL|DC|RL|RC|N1|N3|XX);")
_DOTS = re.compile(r"[.()\[\]{}<>&+-]{2,}( *\(? *-?[0-9.]+\)?)?")
"""A secondary structure, perhaps with its energy."""


class FileKind(NamedTuple):
    """What a file is that is not what a reader wants."""

    what: str
    """With its article: "a web page"."""
    cure: str

    def __str__(self) -> str:
        return f"is {self.what}; {self.cure}"


def wrong_kind(head: bytes) -> FileKind | None:
    """What no reader of ours takes, whatever it is for: a pointer, a page, an archive, a workbook, …

    Args:
        head: the first `LOOK` bytes of a file, or all of it.
    """
    if head.startswith(_LFS):
        return FileKind(*_POINTER)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if comments := _COMMENTS.match(text):
        text = text[comments.end() :]
    if _STATUS.fullmatch(text):
        return FileKind("the error of a web server and not the file", "download it again, and check its address")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return FileKind("a web page, perhaps of a login or an error", "download the file itself")
    if text.startswith((b"<?xml", b"<svg", b"<!doctype", b"<error")):
        return FileKind("an XML file", "download it in another format, or look into it: it may be an error message")
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return FileKind(*_MAGIC[head[:8]])
    if head.startswith(_ZIP) and b"xl/" in head:
        return FileKind("a workbook of Excel (.xlsx)", _SHEET)
    return None


def wrong_text(head: bytes) -> FileKind | None:
    """What is no text of sequences, molecules or pairs: all of `wrong_kind`, and binary files."""
    if (kind := wrong_kind(head)) is not None:
        return kind
    if head.startswith(_ZIP) and b"word/" in head:
        return FileKind("a document of Word (.docx)", "save it as plain text (UTF-8) and give that file")
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", "unpack it first, e.g. `tar -xf FILE`, and name one file of it")
    if head.startswith(_GZIP) and _unpacked(head).startswith(_GZIP):
        return FileKind("a gzip file in a gzip file", "unpack it once, e.g. `gunzip FILE`")
    if _PICKLE.match(head):
        return FileKind("a pickle of Python", "save its data as text")
    if head.startswith(_ZIP):
        return FileKind("a zip archive", _UNPACK)
    for magic, (what, cure) in _MAGIC.items():
        if head.startswith(magic):
            return FileKind(what, cure)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return FileKind("UTF-16 text", "save it as UTF-8")
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 40:
        return FileKind("a safetensors file", "give a text file")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"##fileformat=VCF"):
        return FileKind("a VCF file of variants", "give the sequences or pairs themselves")
    if text.startswith(b"##gff-version"):
        return FileKind("a GFF file of intervals", _INTERVALS)
    if text.partition(b"\n")[0].strip().lower() == b"#nexus":
        return FileKind("a NEXUS file", _CONVERT)
    if _JSON.match(text) and b"\t" not in text.partition(b"\n")[0]:  # an id may begin so
        return FileKind("a JSON file", "give the records in one of the formats of `--help`")
    return None


def wrong_sequences(head: bytes, molecules: bool = False) -> FileKind | None:
    """What is text of sequences or molecules in a form that is not read; `molecules`: SMILES are wanted, no FASTA."""
    lines = [line.strip() for line in head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()[:40]]
    lines = [line for line in lines if line]
    if not lines:
        return None
    first = lines[0]
    if first.startswith("@<TRIPOS>") or "@<TRIPOS>MOLECULE" in lines:
        return FileKind("a MOL2 file", "convert it to SDF or SMILES, e.g. `obabel FILE -O out.sdf`")
    if (kind := _structure_or_intervals(lines, molecules)) is not None:
        return kind
    if molecules:
        if first.startswith(("$RXN", "$RDFILE")):
            return FileKind("a file of reactions", "give their molecules as SDF or SMILES")
        if first.startswith("HEADER  "):
            return FileKind("a PDB file", "convert its molecules to SDF or SMILES")
        return None
    if _PHYLIP.fullmatch(first) and len(lines) > 1 and _PHYLIP_ROW.fullmatch(lines[1]):
        return FileKind("a PHYLIP alignment", _CONVERT)
    if _PIR.match(first):
        return FileKind("a PIR/NBRF file, whose second line is a title", _CONVERT)
    if first.startswith("# STOCKHOLM"):
        return FileKind("a Stockholm alignment", f"{_CONVERT}, e.g. `esl-reformat fasta FILE`")
    if first.startswith("CLUSTAL") or first.startswith("MUSCLE"):
        return FileKind("a Clustal alignment", _CONVERT)
    if first.startswith("LOCUS  "):
        return FileKind("a GenBank file", _CONVERT)
    if first.startswith(("ID   ", "HEADER  ", "data_")):
        return FileKind("a database entry (EMBL, UniProt, PDB or mmCIF)", _CONVERT)
    if first.startswith("@") and len(lines) > 2 and lines[2].startswith("+"):
        return FileKind("a FASTQ file", "convert it to FASTA, e.g. `seqtk seq -A FILE`")
    if first.startswith("#") and ">" in head.decode("utf-8", "replace"):
        return FileKind("FASTA below '#' comment lines", "remove the lines before the first '>'")
    if first.startswith(">") and (dots := _structure_line(lines)):
        what = f"a file of sequences and structures in dot-bracket lines ('{printable(dots, 20)}')"
        return FileKind(what, "remove the structure lines, e.g. `grep -v '^[.(\\[{]' FILE`")
    return None


def wrong_table(head: bytes) -> FileKind | None:
    """What is text, but no table of pairs: sequences, structures, alignments and intervals."""
    lines = [line.strip() for line in head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()[:40]]
    first = next(filter(None, lines), "")
    cells = first.split("\t")
    if first.startswith("#") and not first.startswith("# STOCKHOLM"):  # a header may
        return None
    if len(cells) == 3 and cells[1].isdecimal() and cells[2] in ("0", "1"):  # two ids and a label, without a header
        return None
    if any(mark in first for mark in "\t,;|"):  # names of columns may begin as an entry of a database does
        kind = _structure_or_intervals([line for line in lines if line], False)
    else:
        kind = FileKind("a FASTA file", _PAIRS) if first.startswith(">") else wrong_sequences(head)
    return kind and kind._replace(cure=_PAIRS)


def _structure_or_intervals(lines: list[str], molecules: bool) -> FileKind | None:
    """Structures and tables of the genome, which are neither sequences nor molecules."""
    if _ATOM_LINE.match(lines[0]) and "\t" not in lines[0]:
        return FileKind("a PDB file", "convert its molecules to SDF or SMILES" if molecules else _CONVERT)
    body = [line for line in lines if not line.startswith("#")] or [""]
    if lines[0].startswith(">"):  # the header of a FASTA file may hold TABs
        return None
    if body[0].startswith("data_") and "\t" not in body[0] and any(line.startswith(("_", "loop_")) for line in body):
        return FileKind("an mmCIF file", "convert its molecules to SDF or SMILES" if molecules else _CONVERT)
    if _SAM.match(body[0]):
        return FileKind("a SAM file", "give the molecules" if molecules else "convert it to FASTA by `samtools fasta`")
    for form, what in ((_GFF, "a GFF file of intervals"), (_BED, "a BED file of intervals")):
        if form.match(body[0]) if form is _GFF else form.fullmatch(body[0]):
            return FileKind(what, "give the molecules" if molecules else _INTERVALS)
    return None


def _unpacked(head: bytes) -> bytes:
    """The first bytes in a gzip file, of its own first bytes."""
    with suppress(zlib.error):
        return zlib.decompressobj(31).decompress(head, 16)
    return b""


def _structure_line(lines: list[str]) -> str | None:
    """The first line of a dot-bracket file that is a structure: below a sequence of its own length."""
    for before, text in pairwise(lines):
        bare = text.split(" ")[0]
        if (
            text[0] != ">"
            and len(bare) == len(before)
            and _DOTS.fullmatch(text)
            and ("(" in bare or "." in bare)
            and "-" not in bare
        ):
            return text
    return None
