from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossllm.cache import CacheCorrupt, Conflict, InputError
from crossllm.cache.maintenance.inspection import verify
from crossllm.pipeline.data.dataset import Dataset, load_dataset
from crossllm.pipeline.data.demo import FLIPPED, PROTEIN_MOTIFS, RNA_MOTIFS, write_demo
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.data.pairs import Columns, Where, read_pairs
from crossllm.pipeline.splits.given import given_folds, in_a_fold
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tsv_and_csv_are_told_apart_by_their_header(tmp_path: Path) -> None:
    tsv = read_pairs(table(tmp_path / "a.tsv", "a_id\tb_id\tlabel\tfold\nx\ty\t1\t0\n"))
    csv = read_pairs(table(tmp_path / "a.csv", 'a_id,b_id,label,fold\nx,y,1,"0"\n'))
    assert tsv.pairs == csv.pairs
    assert tsv.extra_columns == ("fold",)


def test_repeats_are_merged_and_counted(tmp_path: Path) -> None:
    same = read_pairs(table(tmp_path / "a.tsv", "a_id\tb_id\tlabel\nx\ty\t1\nx\ty\t1\nx\tz\t0\n"))
    assert (len(same.pairs), same.notes["repeated pair with the same label, kept once"]) == (2, 1)
    affinity = read_pairs(table(tmp_path / "b.tsv", "a_id\tb_id\tlabel\nx\ty\t1.5\nx\ty\t2.5\n"))
    assert affinity.task == "regression"
    assert [(p.label, affinity.notes["repeated affinity, averaged"]) for p in affinity.pairs] == [(2.0, 1)]


def test_contradictory_classes_are_an_error_or_both_left_out(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", "a_id\tb_id\tlabel\nx\ty\t1\nx\tz\t0\nx\ty\t0\nz\tz\t1\n")
    with pytest.raises(InputError, match=r"a\.tsv:4: .*line 2"):
        read_pairs(path)
    left = read_pairs(path, on_bad="skip")
    assert [(p.a_id, p.b_id) for p in left.pairs] == [("x", "z"), ("z", "z")]


def test_where_keeps_fitting_rows_and_counts_the_rest(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", "a_id\tb_id\tlabel\tspecies\nx\ty\t1\tath\nx\tz\t0\tgma\n")
    found = read_pairs(path, where=(Where("species", "ath"),))
    assert [p.b_id for p in found.pairs] == ["y"]
    assert found.notes["left out by --where"] == 1


def dataset_files(tmp_path: Path) -> tuple[Path, Path, Path]:
    rna = table(tmp_path / "rna.fa", ">r1\nACGU\n>r2\nACGU\n>r3\nGGGG\n>unused\nCC\n")
    protein = table(tmp_path / "protein.fa", ">p1\nMK\n>p2\nMKV\n")
    pairs = table(tmp_path / "pairs.tsv", 'a_id\tb_id\tlabel\tnote\nr1\tp1\t1\ta"b\nr2\tp1\t0\t\nr3\tp2\t1\t=cmd\n')
    return rna, protein, pairs


def test_import_writes_a_dataset_that_loads_with_its_keys(tmp_path: Path) -> None:
    rna, protein, pairs = dataset_files(tmp_path)
    options = ImportOptions(Side("rna", rna), Side("protein", protein), pairs, tmp_path / "c")
    import_dataset(options)
    import_dataset(options)  # the same again changes nothing
    dataset, _ = load_dataset(tmp_path / "c")
    assert (dataset.task, dataset.modality_a, dataset.modality_b) == ("classification", "rna", "protein")
    assert dataset.extra["note"] == ['a"b', "", "=cmd"]
    assert dataset.sequence_pairs().tolist() == [0, 0, 1], "r1 and r2 are one sequence"
    assert ">unused" not in (tmp_path / "c" / "rna.fasta").read_text()
    pairs.write_text("a_id\tb_id\tlabel\nr1\tp2\t1\nr2\tp1\t0\n")
    with pytest.raises(Conflict, match="already holds another dataset"):
        import_dataset(options)


def test_two_sides_of_one_modality_are_merged(tmp_path: Path) -> None:
    a = table(tmp_path / "a.fa", ">m\nACGU\n>shared\nGG\n")
    b = table(tmp_path / "b.fa", ">l\nACGUACGU\n>shared\nGG\n")
    pairs = table(tmp_path / "pairs.tsv", "a_id\tb_id\tlabel\nm\tl\t1\nshared\tshared\t0\n")
    import_dataset(ImportOptions(Side("rna", a), Side("rna", b), pairs, tmp_path / "c"))
    assert (tmp_path / "c" / "rna.fasta").read_text().count(">") == 3
    b.write_text(">l\nACGUACGU\n>shared\nCC\n")
    with pytest.raises(InputError, match="'shared' has another sequence"):
        import_dataset(ImportOptions(Side("rna", a), Side("rna", b), pairs, tmp_path / "d"))
    assert not (tmp_path / "d").exists()


def load_demo(tmp_path: Path, **size: int) -> Dataset:
    write_demo(tmp_path / "demo", **size)
    return load_dataset(tmp_path / "demo")[0]


def test_the_demo_is_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    write_demo(tmp_path / "x", seed=3, entities=60, pairs=200)
    write_demo(tmp_path / "y", seed=3, entities=60, pairs=200)
    for name in ("rna.fasta", "protein.fasta", "pairs.tsv"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_the_demos_label_is_the_match_of_the_two_motif_families(tmp_path: Path) -> None:
    dataset = load_demo(tmp_path)
    assert len(dataset.labels) == 3000
    sides = []
    for modality, motifs in (("rna", RNA_MOTIFS), ("protein", PROTEIN_MOTIFS)):
        lines = (tmp_path / "demo" / f"{modality}.fasta").read_text().split()
        family = {i[1:]: [any(m in s for m in f) for f in motifs] for i, s in zip(lines[::2], lines[1::2], strict=True)}
        assert all(sum(found) == 1 for found in family.values())
        sides.append({i: found.index(True) for i, found in family.items()})
    match = [sides[0][a] == sides[1][b] for a, b in zip(dataset.a_ids, dataset.b_ids, strict=True)]
    flipped = np.mean(np.array(match) != dataset.labels)
    assert abs(flipped - FLIPPED) < 0.015


def test_random_folds_never_cut_a_sequence_pair_and_keep_the_label_share(tmp_path: Path) -> None:
    dataset = load_demo(tmp_path, entities=60, pairs=400)
    doubled = dataset._replace(
        a_ids=[*dataset.a_ids, *(f"{i}_again" for i in dataset.a_ids)], b_ids=dataset.b_ids * 2,
        a_keys=dataset.a_keys * 2, b_keys=dataset.b_keys * 2, labels=np.tile(dataset.labels, 2),
    )  # fmt: skip
    folds = random_folds(doubled, 4, seed=1)
    assert (folds.of_pair[:400] == folds.of_pair[400:]).all()
    for number in range(4):
        parts = cut_parts(doubled, folds, number, 0.15, seed=1)
        everything = np.concatenate(parts)
        assert sorted(everything.tolist()) == list(range(800))
        groups = [set(doubled.sequence_pairs()[part].tolist()) for part in parts]
        assert not (groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2])
        assert abs(doubled.labels[parts.test].mean() - doubled.labels.mean()) < 0.02
    assert (random_folds(doubled, 4, seed=1).of_pair == folds.of_pair).all()
    assert (random_folds(doubled, 4, seed=2).of_pair != folds.of_pair).any()


def test_given_folds_are_the_column_and_count_what_they_share(tmp_path: Path) -> None:
    dataset = load_demo(tmp_path, entities=60, pairs=400)
    column = [str(10 * (n % 2)) for n in range(400)]
    column[1], keys = "0", dataset.a_keys
    dataset = dataset._replace(extra={"fold": column}, a_keys=[keys[0], keys[0], *keys[2:]],
                               b_keys=[dataset.b_keys[0], dataset.b_keys[0], *dataset.b_keys[2:]])  # fmt: skip
    folds = given_folds(dataset, "fold")
    assert folds.names == ["0", "10"]
    assert folds.shared == 0
    column[1] = "10"
    assert given_folds(dataset, "fold").shared == 2
    with pytest.raises(InputError, match="further columns there: fold"):
        in_a_fold(dataset, "species")
    column[2:5] = ["-", "", "NA"]
    assert in_a_fold(dataset, "fold") == [0, 1, *range(5, 400)]


def test_the_real_sets_import_as_their_readme_counts_them(real_data: Path, tmp_path: Path) -> None:
    expected = {"rpi488": (486, 25, 247), "rpi1460": (2920, 98, 635)}
    for name, (pairs, rnas, proteins) in expected.items():
        source = real_data / name
        import_dataset(ImportOptions(Side("rna", source / "rna.fasta"), Side("protein", source / "protein.fasta"),
                                     source / "pairs.tsv", tmp_path / name))  # fmt: skip
        dataset, _ = load_dataset(tmp_path / name)
        assert (len(dataset.labels), len(set(dataset.a_keys)), len(set(dataset.b_keys))) == (pairs, rnas, proteins)


def test_a_further_column_must_not_take_a_stored_columns_name(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", "rna\tb_id\ty\tlabel\nx\ty\t1\tfoo\n")
    with pytest.raises(InputError, match="column 'label' stands beside the one that"):
        read_pairs(path, columns=Columns("rna", "b_id", "y"))


def test_one_file_may_be_both_sides_of_two_modalities(tmp_path: Path) -> None:
    both = table(tmp_path / "both.fa", ">s\nACG\n")
    pairs = table(tmp_path / "pairs.tsv", "a_id\tb_id\tlabel\ns\ts\t1\n")
    import_dataset(ImportOptions(Side("rna", both), Side("protein", both), pairs, tmp_path / "c"))
    dataset, _ = load_dataset(tmp_path / "c")
    assert dataset.a_keys != dataset.b_keys


def test_an_edited_table_or_name_is_noticed(tmp_path: Path) -> None:
    write_demo(tmp_path / "c", entities=30, pairs=60)
    head = (tmp_path / "c" / "dataset.toml").read_text()
    (tmp_path / "c" / "dataset.toml").write_text(head.replace('name = "demo"', 'name = "../../out"'))
    with pytest.raises(InputError, match="name"):
        load_dataset(tmp_path / "c")
    (tmp_path / "c" / "dataset.toml").write_text(head)
    text = (tmp_path / "c" / "pairs.tsv").read_text()
    (tmp_path / "c" / "pairs.tsv").write_text(text.replace("\t1\n", "\t0\n", 1))
    with pytest.raises(CacheCorrupt, match="not as it was imported"):
        load_dataset(tmp_path / "c")
    assert verify(tmp_path / "c", data=False).damage


def test_affinities_keep_all_their_digits(tmp_path: Path) -> None:
    fasta = table(tmp_path / "both.fa", ">s\nACG\n")
    pairs = table(tmp_path / "pairs.tsv", "a_id\tb_id\tlabel\ns\ts\t1.2345678901234567\n")
    import_dataset(ImportOptions(Side("rna", fasta), Side("rna", fasta), pairs, tmp_path / "c"))
    assert load_dataset(tmp_path / "c")[0].labels.tolist() == [1.2345678901234567]
