"""Cures that a message gives as a command hold when they are typed: the file that was refused is read after them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from crossllm.cache import InputError, read_records
from crossllm.pipeline.data.pairs import read_pairs

RNA, PROTEIN = {"r0", "r1"}, {"p0", "p1"}


def pairs(path: Path) -> int:
    return len(read_pairs(path, RNA, PROTEIN).pairs)


def records(modality: str) -> Callable[[Path], int]:
    return lambda path: len(read_records(path, modality).records)


CASES: dict[str, tuple[str, Callable[[Path], int], int]] = {
    "one blank": ("a_id b_id label\nr0 p0 1\nr1 p1 0\n", pairs, 2),
    "several blanks": ("a_id   b_id  label\nr0  p0    1\nr1 p1   0\n", pairs, 2),
    "a header by TABs, rows by blanks": ("a_id\tb_id\tlabel\nr0 p0 1\nr1 p1 0\n", pairs, 2),
    "no header": ("r0\tp0\t1\nr1\tp1\t0\n", pairs, 2),
    "decimal commas": ("a_id;b_id;label\nr0;p0;7,3\nr0;p1;6,25\nr1;p1;5\n", pairs, 3),
    "A3M": (">q\nMKVLATTYW\n>h1\nMKVLagTTYW\n>h2\nMKV-A.TTYW\n", records("protein"), 3),
    "aligned RNA": (">a\nAC-GU\n>b\nACCGU\n", records("rna"), 2),
    "dot-bracket": (">h\nGGGGAAAACCCC\n((((....))))\n", records("rna"), 1),
    "ids first, by blanks": ("ethanol CCO\nbenzene  c1ccccc1\n", records("molecule"), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_cure_holds_when_it_is_typed(name: str, tmp_path: Path) -> None:
    text, read, found = CASES[name]
    path, new = tmp_path / "in.txt", tmp_path / "new.txt"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read(path)
    command = re.search(r"`([^`]*\bFILE\b[^`]*)`", refusal.value.lines[0])
    assert command, refusal.value.lines
    typed = command[1].replace("FILE", str(path)).replace("NEW", str(new))
    typed += "" if "> " in command[1] else f" > {new}"
    subprocess.run(["sh", "-c", typed], check=True)
    assert read(new) == found, new.read_text()
