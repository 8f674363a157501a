"""One reader of tables for pairs and molecules: RFC 4180 over the whole file, and never half of a row."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossllm.cache import CacheReader, CacheWriter, InputError, Recipe, read_records
from crossllm.cache.files.text_file import read_lines
from crossllm.cache.records.fasta import read_fasta
from crossllm.cache.records.id_table import publish_table, read_table
from crossllm.cache.records.molecules import read_molecules
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.rdkit_child import RdkitChild
from crossllm.cache.records.record import id_problem, record_of
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.table import open_table
from crossllm.embed.foreign.exporting import ExportOptions, export_embeddings
from crossllm.embed.foreign.matching import read_mapping
from crossllm.pipeline.data.dataset import load_dataset, write_dataset
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.data.pairs import Pair, read_pairs

HEADER = "a_id,b_id,label,note\n"
LONG = "|".join(f"made-up name {n}" for n in range(12000))
"""Longer than Python's own bound on a cell."""


@pytest.fixture(scope="module")
def _rdkit() -> Iterator[RdkitChild]:
    with RdkitChild() as child:
        yield child


@pytest.fixture(autouse=True)
def _one_child_for_all(_rdkit: RdkitChild, monkeypatch: pytest.MonkeyPatch) -> None:
    """RDKit is started once, not for every file."""
    monkeypatch.setattr("crossllm.cache.records.molecules.RdkitChild", lambda: nullcontext(_rdkit))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def molecules(tmp_path: Path, text: str, on_bad: str = "error", asked: ReadOptions = ReadOptions()) -> Records:
    return read_molecules(write(tmp_path / "m.smi", text), on_bad, asked)  # type: ignore[arg-type]


def kept(found: Records) -> list[tuple[str, str]]:
    return [(r.id, r.sequence) for r in found.records]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_quoted_cells_hold_anything_and_lines_are_counted_on(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ("a_id", "b_id", "label", "note"), ("r0", "p0", "1", "first\nsecond\n\nlast"),
        ("r0", "p1", "0", 'a "quote", a\ttab; |'), ("r1", "p0", "7", ""), ("r1", "p1", "1", LONG),
    ]  # fmt: skip
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    found = read_pairs(write(tmp_path / "p.csv", text.getvalue()), on_bad="skip")
    assert [(p.a_id, p.b_id, p.label, p.line) for p in found.pairs] == [
        ("r0", "p0", 1, 2), ("r0", "p1", 0, 6), ("r1", "p1", 1, 8),
    ]  # fmt: skip
    assert [p.extra[0] for p in found.pairs] == [rows[1][3], rows[2][3], LONG]
    assert [p.line for p in found.skipped] == [7]


# The file → where it stops and what it says, whatever --on-bad: what would be half a row is never one.
STOPS = {
    HEADER + 'r0,p0,1,"open\nr1,p1,0,x\n': "t.csv:2: a quote is not closed to the end of the file",
    HEADER + 'r0,p0,1,"open\nr1,p1,0,"x\nr2,p2,1,\n': "t.csv:2: a quoted cell runs from here to line 3",
    'a_id,b_id,"label\nr0,p0,1\n': "t.csv:1: a quote is not closed to the end of the file",
    'id,"smiles\nm1,CCO\n': "t.csv:1: a quote is not closed to the end of the file",
    'id,smiles,note\nm1,CCO,"open\nm2,CCC,x\n': "t.csv:2: a quote is not closed",
    "a_id\tb_id\tlabel\n1\tr0\tp0\t1\n2\tr1\tp1\t0\n": "t.csv: every row has 4 columns, the header 3: row names, as R",
    "a_id b_id label\nr0 p0 1\n": "its columns are separated by blanks; separate all columns by TABs, e.g. `tr",
    "#a_id\tb_id\tlabel\nr0\tp0\t1\n": "remove the '#' before it",
    "A_ID\tb_id\tlabel\nr0\tp0\t1\n": "'A_ID' differs in case: name it by --a-column",
    "": "t.csv: is empty",
}


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize("text", STOPS)
def test_a_table_that_cannot_be_told_apart_stops_in_one_line(tmp_path: Path, text: str, on_bad: str) -> None:
    path = write(tmp_path / "t.csv", text)
    read: Callable[..., object] = read_molecules if "smiles" in text else read_pairs
    with pytest.raises(InputError) as refusal:
        read(path, on_bad=on_bad)
    (line,) = refusal.value.lines
    assert STOPS[text] in line


def test_a_bad_row_of_several_lines_is_one_and_no_part_of_it_is_stored(tmp_path: Path) -> None:
    found = molecules(tmp_path, 'id,smiles,note\nm1,CCO,"one\nm9,CCCC,two",x\nm2,CCN,\nm3,C"C\n', "skip")
    assert kept(found) == [("m2", "CCN")]
    assert [(p.line, p.what.split(";")[0]) for p in found.skipped] == [
        (2, "4 columns, the header has 3 (to line 3)"), (5, "2 columns, the header has 3"),
    ]  # fmt: skip


def test_spreadsheets_leave_empty_columns_and_row_numbers(tmp_path: Path) -> None:
    plain = read_pairs(write(tmp_path / "p.csv", HEADER + "r0,p0,1,x\nr1,p1,0,y\n")).pairs
    for text in (
        "a_id,b_id,label,note,,\nr0,p0,1,x,,\nr1,p1,0,y,,\n", HEADER + "r0,p0,1,x,,\nr1,p1,0,y\n",
        "sep=,\n" + HEADER + "r0,p0,1,x\nr1,p1,0,y\n", HEADER.replace(",", ", ") + 'r0, p0, 1, "x"\n"r1" ,p1,0,y\n',
        HEADER.replace(",", ";") + "r0;p0;1;x\nr1;p1;0; y \n",
    ):  # fmt: skip
        text = text.replace('"r1" ,', "r1 ,")
        found = read_pairs(write(tmp_path / "q.csv", text))
        assert [p._replace(line=0) for p in found.pairs] == [p._replace(line=0) for p in plain], text
    found = read_pairs(write(tmp_path / "q.csv", ",a_id,b_id,label\n0,r0,p0,1\n1,r1,p1,0\n"))
    assert found.extra_columns == ()
    assert found.notes == {"a column without a name (a row number?), left out": 2}
    found = read_pairs(write(tmp_path / "q.csv", HEADER + "r0,p0,1,x\n,,,\nr1,p1,0,y\n , ,,\n"))
    assert [p.line for p in found.pairs] == [2, 4]
    assert found.notes == {"without a value in any column, passed over": 2}
    found = read_pairs(write(tmp_path / "q.csv", HEADER + "r0,p0,1,x\n" + HEADER + "r1,p1,0,y\n"), on_bad="skip")
    assert [(p.line, p.what) for p in found.skipped] == [
        (3, "the header once more; were two files joined? remove the line")
    ]


def test_cells_are_stripped_once_and_for_all(tmp_path: Path) -> None:
    write(tmp_path / "r.fa", ">r0\nACGU\n>r1\nGG\n")
    pairs = write(tmp_path / "p.tsv", "a_id\tb_id\tlabel\t kind \nr0\tr0\t1\t kind\nr1\tr1\t0\tkind \n")
    import_dataset(ImportOptions(Side("rna", tmp_path / "r.fa"), Side("rna", tmp_path / "r.fa"), pairs, tmp_path / "c"))
    assert load_dataset(tmp_path / "c")[0].extra == {"kind": ["kind", "kind"]}


def rows_of(text: str) -> list[tuple[int, list[str], str | None]]:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "t.csv", text)
        table = open_table(path, read_lines(path), Counter())
        assert table is not None
        return [(row.line, row.cells, row.problem) for row in table.rows]


CELL = st.text(st.sampled_from('ab, \t;|"\n0'), max_size=8).map(str.strip)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.just("x"), CELL, CELL), max_size=8), st.sampled_from(",\t;|"))
def test_whatever_a_csv_writer_wrote_is_read_back(rows: list[tuple[str, str, str]], delimiter: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([("k", "v", "w"), *rows])
    found = rows_of(text.getvalue())
    assert [cells for _, cells, _ in found] == [list(row) for row in rows]
    assert all(problem is None for *_, problem in found)


# Ids.


def test_an_id_that_no_table_gives_back_is_refused_by_its_line(tmp_path: Path) -> None:
    block = "{}\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n" + "    0.0000" * 3 + " C   0  0\nM  END\n$$$$\n"
    found = molecules(tmp_path, block.format("a\tb") + block.format("good"), "skip")
    assert kept(found) == [("good", "C")]
    assert [str(p).split("m.smi")[1] for p in found.skipped] == [
        ":1: an id with a TAB at column 2 (record a\\tb); rename it"
    ]
    found = molecules(tmp_path, 'id,smiles\n"a\tb",C\n"c\nd",C\ne,C\n', "skip")
    assert (kept(found), [p.line for p in found.skipped]) == ([("e", "C")], [2, 3])
    assert "a line break at column 2" in found.skipped[1].what
    pairs = write(tmp_path / "p.csv", 'a_id,b_id,label\n"r\t0",p0,1\nr1,"p\n1",0\n,p0,1\n')
    with pytest.raises(InputError) as refusal:
        read_pairs(pairs)
    said = [line.split("p.csv:")[1].split(";")[0] for line in refusal.value.lines]
    assert said == ["2: a_id: an id with a TAB at column 2", "3: b_id: an id with a line break at column 2",
                    "5: a_id: an empty id"]  # fmt: skip
    found = molecules(tmp_path, "a\tC\nsmiles\tCC\n", "skip")
    assert [p.record for p in found.skipped] == ["smiles"], "as the first of a file it would be a header"


@pytest.mark.parametrize("id_", ["a\tb", "a\nb", "a\rb", " a", "a ", "", "a\x00", "a\u2028b", "\ufeffa", "\udce9"])
def test_the_writers_of_our_own_tables_refuse_it_too(id_: str, tmp_path: Path) -> None:
    assert id_problem(id_) is not None
    with pytest.raises(InputError, match=r"an? (empty )?id"):
        publish_table(tmp_path, "rna", [record_of("rna", id_, "ACGU")])
    records, pairs = {"rna": [record_of("rna", "a", "ACGU")]}, [Pair("a", id_, 1, 0, ())]
    with pytest.raises(InputError, match=r"an? (empty )?id"):
        write_dataset(tmp_path / "c", "c", "classification", ("rna", "rna"), records, pairs, (), {})
    assert not list(tmp_path.iterdir())


ODD = ('"', '"a"', "#a", ">a", "a,b", "a;b|c", "é", "id", "=1", "$$$$", "sep=,", "a b", "smiles", "\ufeffa", "a\x85b")
ID = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(ID, st.sampled_from(ODD)), min_size=4, max_size=12, unique=True))
def test_any_id_that_a_reader_accepts_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    """FASTA, SMILES and CSV → records table → pairs.tsv and the dataset's own files → mapping of an export."""
    folder = tmp_path_factory.mktemp("ids")
    quoted = io.StringIO()
    csv.writer(quoted).writerows([("id", "smiles"), *((id_, "C" * n) for n, id_ in enumerate(ids, 1))])
    write(folder / "m.csv", quoted.getvalue())
    write(folder / "m.smi", "first\tC\n" + "".join(f"{id_}\t{'C' * n}\n" for n, id_ in enumerate(ids, 2)))
    write(folder / "r.fa", ">first\nAC\n" + "".join(f">{id_}\n{'ACGU' * n}\n" for n, id_ in enumerate(ids, 1)))
    sides = [Side("rna", folder / "r.fa")]
    for name in ("m.csv", "m.smi"):
        try:
            read_records(folder / name, "molecule", "skip")
        except InputError:
            continue  # no id of this file was one
        sides.append(Side("molecule", folder / name))
    for number, b in enumerate(sides):
        a = sides[0]
        read_a, read_b = (read_records(side.path, side.modality, "skip").records for side in (a, b))
        rows = io.StringIO()
        writer = csv.writer(rows)
        writer.writerow(("a_id", "b_id", "label"))
        pairs = [(r.id, other.id) for r in read_a for other in read_b]
        writer.writerows((*pair, n % 2) for n, pair in enumerate(pairs))
        cache = folder / f"c{number}"
        import_dataset(ImportOptions(a, b, write(folder / "pairs.csv", rows.getvalue()), cache, on_bad="skip"))
        dataset = load_dataset(cache)[0]
        assert list(zip(dataset.a_ids, dataset.b_ids, strict=True)) == pairs
        for side, records in ((a, read_a), (b, read_b)):
            assert {r.id: r.key for r in records}.items() <= {
                i: e.key for i, e in read_table(cache, side.modality).items()
            }.items()
            stored = cache / ("rna.fasta" if side.modality == "rna" else "molecules.smi")
            assert {r.id for r in records} <= {r.id for r in read_records(stored, side.modality).records}
    cache, recipe = folder / "c0", Recipe("rna", "profile", 1, 2, tokenizer="letters")
    with CacheWriter(cache, recipe) as written:
        for entry in set(read_table(cache, "rna").values()):
            written.add(entry.key, np.ones((entry.length, 2), np.float16))
    assert len(CacheReader(cache, recipe))
    export_embeddings(ExportOptions(cache, "rna", "npy", folder / "out", quiet=True))
    listed = [line.text.split("\t")[1] for line in read_lines(folder / "out" / "mapping.tsv")][1:]
    assert sorted(listed) == sorted(read_table(cache, "rna"))
    assert {line.key for line in read_mapping(folder / "out").values()} == {
        e.key for e in read_table(cache, "rna").values()
    }


# FASTA: what is lost is counted and named.


def test_of_a_fasta_every_lost_record_is_named(tmp_path: Path) -> None:
    cases = {
        ">x1\nACGU\n\ufeff>x2\nGG\n>x3\nAA\n": (["x1", "x3"], [(3, "x2")]),
        ">x1\nACGU>x2\nGG\n>x3\nAA\n": (["x3"], [(2, "x1"), (2, "x2")]),
        ">x1\nAC\x00GU\n>x3\nAA\n": (["x3"], [(2, "x1")]),
        ">x1\nACGU\n>x2\nGG\n\x00": (["x1"], [(5, "x2")]),
        ">x1 a\x01x9 b\nACGU\n>x3\nAA\n": (["x1", "x3"], []),
    }
    for text, (ids, skipped) in cases.items():
        found = read_fasta(write(tmp_path / "a.fa", text), "rna", "skip")
        assert [r.id for r in found.records] == ids, text
        assert [(p.line, p.record) for p in found.skipped] == skipped, text


def test_inosine_is_no_protein(tmp_path: Path) -> None:
    for text, say in {
        ">x\nACIIGU\n": "'I' at nucleotide 3 of 6 is inosine",
        ">x\nACEGU\n": "'E' at nucleotide 3 of 5 is no nucleotide; write N",
        ">x\nMKVLEI\n": "is this a protein?",
    }.items():
        with pytest.raises(InputError) as refusal:
            read_fasta(write(tmp_path / "a.fa", text), "rna")
        assert say in str(refusal.value).replace(" (record x)", "")


# Molecules: order, columns, SD files.


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("CCO\tethanol\nc1ccccc1\tbenzene\nCN\tCO\n", "'CCO' is a SMILES and 'ethanol' is none (2 such lines): is the "
         "order SMILES, id? say so by --smiles-first"),
        ("CCO ethanol\nc1ccccc1 benzene\n", "m.smi:1: 1 column, 2 expected, in every line; SMILES first, as in most"),
    ],
)  # fmt: skip
def test_a_swapped_order_stops_the_file(tmp_path: Path, text: str, say: str, on_bad: str) -> None:
    with pytest.raises(InputError) as refusal:
        molecules(tmp_path, text, on_bad)
    (line,) = refusal.value.lines
    assert say in line


def test_one_bad_smiles_whose_id_is_a_smiles_stops_nothing_else(tmp_path: Path) -> None:
    found = molecules(tmp_path, "a\tC1\nb\tXX\nc\tYY\nCC\tZZ\nd\tCCO\n", "skip")
    assert (kept(found), len(found.skipped)) == ([("d", "CCO")], 4)


def test_ids_come_from_columns_of_ids_and_it_is_said(tmp_path: Path) -> None:
    cases = {
        "ChEMBL ID;Name;Smiles\nC1;spirit;CCO\n": "ChEMBL ID",
        "name,DRUGBANKID,smiles\nspirit,C1,CCO\n": "DRUGBANKID",
        "title,zinc id,smiles\nspirit,C1,CCO\n": "zinc id",
        "fatty acid,compound,smiles\nspirit,C1,CCO\n": "compound",
        "drugId,name,smiles\nC1,spirit,CCO\n": "drugId",
    }
    for text, column in cases.items():
        found = molecules(tmp_path, text)
        assert kept(found) == [("C1", "CCO")], text
        smiles = "Smiles" if "Smiles" in text else "smiles"
        assert found.notes == {f"ids from '{column}', SMILES from '{smiles}'": 1}


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = "ref,id,smiles,parent\nx,1,C,CC\ny,1,CCC,CCCC\n"
    found = molecules(tmp_path, text, asked=ReadOptions(id_column="ref", smiles_column="parent"))
    assert kept(found) == [("x", "CC"), ("y", "CCCC")]
    found = molecules(tmp_path, "CC\twhat\nCCC\tx\n", "skip", ReadOptions(id_column="what", smiles_column="CC"))
    assert kept(found) == [("x", "CCC")]
    with pytest.raises(InputError, match="--id-column 'nobody' stands not in the header 'ref, id, smiles, parent'"):
        molecules(tmp_path, text, asked=ReadOptions(id_column="nobody"))
    with pytest.raises(InputError, match="fill in 'id', or name another column by --id-column"):
        molecules(tmp_path, "id,smiles\n,C\n")
    with pytest.raises(InputError, match=r"--id-field X: .* is no SD file"):
        molecules(tmp_path, text, asked=ReadOptions(id_field="X"))


BODY = "  made up\n\n  1  0  0  0  0  0  0  0  0  0999 {}\n    0.0000    0.0000    0.0000 {}   0  0\nM  END\n"
GOOD = "good\n" + BODY.format("V2000", "C") + "> <DB_ID>\nDB7\n\n$$$$\n"


@pytest.mark.parametrize(
    ("odd", "lost"),
    [
        ("odd\n" + BODY.format("v2000", "Qx") + "$$$$\n", [(1, "odd")]),
        ("odd\n\n\n  1  0  0\n    0.0000    0.0000    0.0000 Qx   0  0\nM  END\n$$$$\n", [(1, "odd")]),
        (BODY.format("V2000", "C") + "$$$$\n", [(1, "")]),
        ("  0  0  0  0  0  0            999 V2000\nM  END\n$$$$\n", [(1, "")]),
        ("$$$$\n$$$$\n", []),
        ("\n" + BODY.format("V2000", "C") + "$$$$\n", [(1, "")]),
    ],
)
def test_one_odd_record_of_an_sd_file_costs_itself_alone(tmp_path: Path, odd: str, lost: list[tuple[int, str]]) -> None:
    found = molecules(tmp_path, odd + GOOD, "skip")
    assert [r.id for r in found.records] == ["good"]
    assert [(p.line, p.record) for p in found.skipped] == lost


def test_the_id_of_an_sd_record_may_be_a_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without an id; .* name a data field by --id-field \(there are DB_ID\)"):
        molecules(tmp_path, GOOD.replace("good\n", "\n", 1))
    assert [r.id for r in molecules(tmp_path, GOOD, asked=ReadOptions(id_field="DB_ID")).records] == ["DB7"]
    with pytest.raises(InputError, match=r"fill in its field NAME \(there are DB_ID\)"):
        molecules(tmp_path, GOOD, asked=ReadOptions(id_field="NAME"))


# Nucleotides given as proteins.


def test_rna_given_as_protein_is_asked_about(tmp_path: Path) -> None:
    rna = "".join(f">r{n}\n{'ACGUACGUNN' * 3}\n" for n in range(3))
    path = write(tmp_path / "a.fa", rna + ">p\nMKVLE\n")
    with pytest.raises(InputError) as refusal:
        read_fasta(path, "protein", "skip")
    (line,) = refusal.value.lines
    assert "3 of 4 sequences hold only A, C, G, T/U or N (e.g. 'r0', 30 letters)" in line
    assert "--allow-nucleotides" in line
    assert len(read_fasta(path, "protein", asked=ReadOptions(allow_nucleotides=True)).records) == 4
    write(path, ">a\nMKVLE\n>b\nGAT\n>c\nMKL\n")
    assert len(read_fasta(path, "protein").records) == 3
    write(path, ">b\nGAT\n")
    assert len(read_fasta(path, "protein").records) == 1, "a short peptide"
