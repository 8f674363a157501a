"""Pairs tables that are something else, a label beside another label, and a dataset that is told where its rows lie."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crossllm.cache import InputError
from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.data.demo import write_demo
from crossllm.pipeline.data.pairs import Columns, read_pairs

KINDS = {
    "a PDB file": "ATOM      1  N   MET A   1      38.198  19.582  29.998  1.00 50.13           N\n",
    "a SAM file": "@HD\tVN:1.6\n@SQ\tSN:c\tLN:9\n",
    "a BED file": "chr1\t10\t20\tx\nchr1\t30\t40\ty\n",
    "a GFF file": "chr1\tx\tgene\t1\t9\t.\t+\t.\tID=g\n",
    "a FASTA file": ">r0\nACGU\n",
    "a FASTQ file": "@r\nACGU\n+\nIIII\n",
    "a Stockholm alignment": "# STOCKHOLM 1.0\nr0  ACGU\n//\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pairs_table_that_is_something_else_is_called_by_its_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text(KINDS[kind])
    with pytest.raises(InputError) as refusal:
        read_pairs(tmp_path / "p.tsv")
    (line,) = refusal.value.lines
    assert f"p.tsv: is {kind}" in line
    assert line.endswith("; give the table of pairs: ids of both sides and a label, with a header line")


@pytest.mark.parametrize("header", ["data_id\tb_id\tlabel", "#a\tb_id\tlabel", "CLUSTAL_id,b_id,label"])
def test_odd_names_of_columns_are_no_other_file(header: str, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text(header + "\n" + "r0\tp0\t1\n".replace("\t", header[-6]))
    name = header.replace(",", "\t").split("\t")[0]
    assert len(read_pairs(tmp_path / "p.tsv", columns=Columns(a=name)).pairs) == 1


def test_pairs_of_numbers_without_a_header_are_no_intervals(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("7\t12\t1\n8\t13\t0\n")
    with pytest.raises(InputError, match="no header line"):
        read_pairs(tmp_path / "p.tsv")


def test_a_label_column_beside_one_called_label(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("a_id\tb_id\tlabel\tpKd\nr0\tp0\t1\t7.5\n")
    with pytest.raises(InputError, match=r"column .label. stands beside the one that --label-column names.*leave"):
        read_pairs(path, columns=Columns(label="pKd"))
    assert len(read_pairs(path).pairs) == 1


@pytest.mark.parametrize("line", ['embeddings = "../rows"\n', '  embeddings="../rows"  # of all datasets\r\n'])
def test_where_embeddings_lie_is_no_part_of_the_digest(line: str, tmp_path: Path) -> None:
    write_demo(tmp_path / "c", 0)
    before = load_dataset(tmp_path / "c")[0].digest
    head = (tmp_path / "c" / "dataset.toml").read_text()
    for new in (line + head, head.replace("[a]\n", line + "\n[a]\n", 1).replace("\n\n" + line, "\n" + line)):
        (tmp_path / "c" / "dataset.toml").write_text(new, newline="")
        assert load_dataset(tmp_path / "c")[0].digest == before
    (tmp_path / "c" / "dataset.toml").write_text(head.replace("task", "note = 1\ntask", 1))
    assert load_dataset(tmp_path / "c")[0].digest != before


def test_comments_above_the_header_are_left_out_by_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("# made by hand\n# on a Monday\na_id\tb_id\tlabel\nr0\tp0\t1\n")
    with pytest.raises(InputError, match="a comment above the header") as caught:
        read_pairs(tmp_path / "FILE")
    subprocess.run(str(caught.value).split("`")[1], shell=True, cwd=tmp_path, check=True)
    assert len(read_pairs(tmp_path / "NEW").pairs) == 1
