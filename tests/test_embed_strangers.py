"""Names of foreign arrays that are nearly ids: the same hints as for pairs, one for the whole import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foreign import DIM, SEQUENCES, run, write_fasta, write_hdf5

from crossllm.cache import InputError
from crossllm.cache.records.id_table import publish_table
from crossllm.cache.records.reading import read_records

# the array's name → the id of the FASTA, what is said
CASES = {
    "P9": ("sp|P9|X_Y", "seqs.fasta has 'sp|P9|X_Y', the same with more between bars?"),
    "sp|P9|X_Y": ("P9", "seqs.fasta has 'P9', the same alone, without bars?"),
    "NM_1.2": ("NM_1.3", "seqs.fasta has 'NM_1.3', the same of another version?"),
    "mir-21": ("MIR-21", "seqs.fasta has 'MIR-21', the same in another case?"),
    "x\u200b": ("x", "it holds an invisible character 0x200b that 'x' has not: remove it"),
    "x": ("x\u200b", "seqs.fasta's id holds an invisible character 0x200b: remove it there"),
    "7": ("007", "seqs.fasta has '007', the same with other zeros before it?"),
    "tr_Q1_Z": ("tr|Q1|Z", "seqs.fasta has 'tr|Q1|Z', the same with other marks between letters and digits?"),
    "layer33/s9": ("s9", "it ends in the id 's9': name the array by that alone"),
}


@pytest.mark.parametrize("name", CASES)
def test_names_that_are_nearly_ids_have_their_hint(name: str, tmp_path: Path) -> None:
    id_, say = CASES[name]
    given = write_hdf5(tmp_path / "x.h5", {name: np.ones((4, DIM), np.float16)})
    with pytest.raises(InputError) as refusal:
        run(tmp_path, given, {id_: "ACGU"})
    (line,) = refusal.value.lines
    assert "none of its 1 arrays belongs to a sequence of" in line
    assert say in line


def test_a_record_of_the_other_modality(tmp_path: Path) -> None:
    proteins = write_fasta(tmp_path / "p.fasta", {"p1": "MKVL"})
    publish_table(tmp_path / "c", "protein", read_records(proteins, "protein").records)
    given = write_hdf5(tmp_path / "x.h5", {"p1": np.ones((4, DIM), np.float16)})
    with pytest.raises(InputError, match=r"the cache has it as a record of protein: is --modality rna right\?"):
        run(tmp_path, given, {"r1": "ACGU"})


def test_the_hint_is_a_note_where_some_do_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {id_: np.ones((len(text), DIM), np.float16) for id_, text in SEQUENCES.items()}
    given = write_hdf5(tmp_path / "x.h5", {"a": rows["a"], "B": rows["b"], "other": rows["c"]})
    assert run(tmp_path, given).unmatched == 2
    assert "x.h5: 'B': seqs.fasta has 'b', the same in another case? write both alike" in capsys.readouterr().err


def test_no_hint_where_nothing_is_alike(tmp_path: Path) -> None:
    given = write_hdf5(tmp_path / "x.h5", {"zzz": np.ones((4, DIM), np.float16)})
    with pytest.raises(InputError, match="name them by these ids, or by MD5 or SHA-256"):
        run(tmp_path, given)
