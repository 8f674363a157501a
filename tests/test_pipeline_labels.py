"""What labels mean is asked, never guessed: classes by other names than 0 and 1, "not measured", slips."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Program

from crossllm.cache import InputError
from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.data.labels import LabelNames, Task, check_names
from crossllm.pipeline.data.pairs import read_pairs


def table(path: Path, labels: str) -> Path:
    rows = "".join(f"r{n}\tp{n}\t{label}\n" for n, label in enumerate(labels.split()))
    path.write_text("a_id\tb_id\tlabel\n" + rows)
    return path


# labels → what the one line must say
ASKED = {
    "-1 +1 -1 1": "labels are -1 (2 rows from line 2), 1 (2 rows from line 3), not 0 and 1 alone; say what they are: "
    "two classes: --positive 1 --negative -1; not measured: --missing -1; affinities: --task regression",
    "1 2 1 2": "--positive 2 --negative 1",
    "0 1 2 0 1 2": "labels are 0 (2 rows from line 2), 1 (2 rows from line 3), 2 (2 rows from line 4)",
    "0 1 -1 0 -1 1": "not measured: --missing -1; affinities: --task regression",
    "0 1 -999 0 -999": "--missing -999",
    "1.0 2.0 1 2": "labels are 1 (2 rows from line 2), 2 (2 rows from line 3)",
    "3 3 3": "labels are 3 (3 rows from line 2)",
    "0 1 " * 20 + "0.5 0.25": "labels are 0 (20 rows), 0.25 (1 row from line 43)",
    "5.2 6.1 -999 7.7 -999": "label -999 in 2 rows, the first on line 4, beside affinities: is it 'not measured'?",
    "yes no yes": "labels are no (1 row from line 3), yes (2 rows from line 2), not numbers; name the classes, e.g. "
    "--positive yes --negative no",
    "7,3 6,25 5": "labels with a decimal comma, '7,3' on line 2; write 7.3",
}


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize("labels", ASKED)
def test_what_is_not_clear_is_asked_in_one_line(labels: str, on_bad: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        read_pairs(table(tmp_path / "p.tsv", labels), on_bad=on_bad)  # type: ignore[arg-type]
    (line,) = refusal.value.lines
    assert ASKED[labels] in line
    assert "p.tsv: " in line


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ("0 1 0 1.0", "classification"),
        ("1 1", "classification"),
        ("5.2 6 7", "regression"),
        ("-1.5 -1 3", "regression"),
        ("-999 -1200.5 -999 -700", "regression"),
        ("0 1 0.5 0.25 2.5 3.5 4.5 5.5 6.5 7.5 8.5 9.5", "regression"),
        (" ".join(map(str, range(20))), "regression"),
    ],
)
def test_what_is_clear_is_read_as_before(labels: str, task: Task, tmp_path: Path) -> None:
    assert read_pairs(table(tmp_path / "p.tsv", labels)).task == task


def test_one_odd_label_among_classes_is_its_line(tmp_path: Path) -> None:
    for task in (None, "classification"):
        path = table(tmp_path / "p.tsv", "0 1 0 2 1 1")
        with pytest.raises(InputError) as refusal:
            read_pairs(path, task=task)  # type: ignore[arg-type]
        (line,) = refusal.value.lines
        assert "p.tsv:5: label 2 is neither 0 nor 1; correct it, or leave such rows out by --missing 2" in line
        left = read_pairs(path, task=task, on_bad="skip")  # type: ignore[arg-type]
        assert (left.task, len(left.pairs), [p.line for p in left.skipped]) == ("classification", 5, [5])


def test_classification_never_sends_to_affinities(tmp_path: Path) -> None:
    for labels in ("-1 1 -1 1", "0 1 2 2", "0 1 0.5 0.25", "0 1 2"):
        with pytest.raises(InputError) as refusal:
            read_pairs(table(tmp_path / "p.tsv", labels), task="classification")
        assert len(refusal.value.lines) == 1
        assert "regression" not in refusal.value.lines[0]


def test_skipping_never_leaves_one_class(tmp_path: Path) -> None:
    path = table(tmp_path / "p.tsv", "-1 1 -1 1")
    with pytest.raises(InputError, match=r"only pairs of label 1 are left, of labels -1 \(2 rows.*--positive 1"):
        read_pairs(path, task="classification", on_bad="skip")
    path.write_text("a_id\tb_id\tlabel\nr0\tp0\t1\nr1\tnobody\t0\n")
    with pytest.raises(InputError, match="only pairs of label 1 are left"):
        read_pairs(path, known_b={"p0"}, on_bad="skip")
    path.write_text("a_id\tb_id\tlabel\nr0\tp0\t1\nr1\tnobody\t1\n")
    assert len(read_pairs(path, known_b={"p0"}, on_bad="skip").pairs) == 1, "it never held another class"


def test_classes_by_name_and_rows_not_measured(tmp_path: Path) -> None:
    cases = {
        "-1 +1 1.0 -1": (LabelNames(("1",), ("-1",)), [0, 1, 1, 0]),
        "True false FALSE": (LabelNames(("true",), ("false",)), [1, 0, 0]),
        "0 1 2 3": (LabelNames(("2", "3"), ("0", "1")), [0, 0, 1, 1]),
        "0 1 -1 1 -1.0": (LabelNames(missing=("-1",)), [0, 1, 1]),
        "5.5 NA -999 7": (LabelNames(missing=("na", "-999")), [5.5, 7]),
        "pos neg unk pos": (LabelNames(("pos",), ("neg",), ("unk",)), [1, 0, 1]),
    }
    for labels, (names, expected) in cases.items():
        found = read_pairs(table(tmp_path / "p.tsv", labels), names=names)
        assert [p.label for p in found.pairs] == expected, labels
        missing = len(labels.split()) - len(expected)
        assert found.notes["label not measured (--missing), left out"] == missing
    with pytest.raises(InputError, match=r"p\.tsv:4: label 'unk' is neither --positive nor --negative"):
        read_pairs(table(tmp_path / "p.tsv", "pos neg unk"), names=LabelNames(("pos",), ("neg",)))
    with pytest.raises(InputError, match=r"no label is --positive, they are neg \(1 row"):
        read_pairs(table(tmp_path / "p.tsv", "pos neg"), names=LabelNames(("positive",), ("neg",)))


@pytest.mark.parametrize(
    ("names", "task", "say"),
    [
        (LabelNames(("1",)), None, "--positive: is given without --negative"),
        (LabelNames((), ("1",)), None, "--negative: is given without --positive"),
        (LabelNames(("1",), ("+1.0",)), None, "--negative '+1.0': is --positive as well"),
        (LabelNames(("1",), ("0",), ("0",)), None, "--missing '0': is --negative as well"),
        (LabelNames(("1",), ("0",)), "regression", "--task regression has none"),
    ],
)
def test_flags_that_contradict_each_other(names: LabelNames, task: Task | None, say: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_names(names, task)
    assert say in str(refusal.value)


def test_of_contradictory_pairs_every_row_that_goes_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    rows = [f"r{n}\tp{n}\t{label}\n" for n in range(19) for label in (0, 1)]
    path.write_text("a_id\tb_id\tlabel\n" + "".join(rows) + "r0\tp1\t1\nr1\tp0\t0\n")
    with pytest.raises(InputError) as refusal:
        read_pairs(path)
    (line,) = refusal.value.lines
    assert "(19 such, lines 3, 5, 7, 9, " in line
    assert "p.tsv:3: this pair has the other label on line 2" in line
    assert "--on-bad skip" in line
    found = read_pairs(path, on_bad="skip")
    assert (len(found.pairs), [p.line for p in found.skipped]) == (2, list(range(2, 40)))
    assert "other label on line 3" in found.skipped[0].what


def test_the_command_takes_names_of_classes(program: Program, tmp_path: Path) -> None:
    (tmp_path / "rna.fa").write_text("".join(f">r{n}\n{'ACGU' * (n + 1)}\n" for n in range(4)))
    (tmp_path / "protein.fa").write_text("".join(f">p{n}\n{'MKVL' * (n + 1)}\n" for n in range(4)))
    table(tmp_path / "pairs.tsv", "-1 +1 -1 -9")
    command = ("crossllm", "data", "import", "--a", "rna=rna.fa", "--b", "protein=protein.fa", "--pairs", "pairs.tsv")
    done = program(*command, "--cache", "c")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert not (tmp_path / "c").exists()
    done = program(*command, "--cache", "c", "--positive", "1", "--negative", "-1", "--missing", "-9")
    assert done.returncode == 0, done.stderr
    assert "3 pairs (1 positive), classification" in done.stdout
    assert "note: pairs.tsv: 1 row: label not measured (--missing), left out" in done.stderr
    assert load_dataset(tmp_path / "c")[0].labels.tolist() == [0, 1, 0]


def test_words_beside_one_number_are_asked_about_in_one_line(tmp_path: Path) -> None:
    """`TRUE` and `FALSE` of a spreadsheet, with a 1 typed by hand."""
    path = tmp_path / "p.tsv"
    rows = [f"r{n}\tp{n}\t{'TRUE' if n % 2 else 'FALSE'}\n" for n in range(30)]
    path.write_text("a_id\tb_id\tlabel\n" + "".join(rows) + "r99\tp99\t1\n")
    with pytest.raises(InputError) as refusal:
        read_pairs(path)
    (line,) = refusal.value.lines
    assert "labels are 1 (1 row from line 32), FALSE (15 rows), TRUE (15 rows), not numbers" in line
    assert "--positive TRUE --negative FALSE" in line
    assert len(read_pairs(path, names=LabelNames(("TRUE", "1"), ("FALSE",))).pairs) == 31
