"""Every kind of split: what is unseen, what is left out, its file, and twenty kinds of bad input."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_splits import made_dataset

from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.pipeline.cli_data import split_command
from crossllm.pipeline.cli_split_flags import take_settings
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.splits.choosing import choose_folds, clusters_of, similarities_of
from crossllm.pipeline.splits.options import SplitOptions
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.splits.split_file import read_split, write_split

MODALITIES = {"rna-protein": ("rna", "protein"), "rna-rna": ("rna", "rna")}
TWO_SIDED = [(kind, blocks) for kind in ("cold-both", "cluster") for blocks in ("diagonal", "all")]
KINDS = [("random", ""), ("cold-a", ""), ("cold-b", ""), *TWO_SIDED, ("given", ""), ("transfer", "")]


@pytest.fixture(params=MODALITIES)
def dataset(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator) -> Dataset:
    return made_dataset(tmp_path, rng, modalities=MODALITIES[request.param])


def asked(kind: str, blocks: str = "", **other: object) -> SplitOptions:
    chosen = SplitOptions(kind, 3, blocks=blocks or "diagonal", train_on="species=ath", test_on="species=mtr,gma")
    return chosen._replace(**other)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "blocks"), KINDS)
def test_every_tested_pair_is_tested_once_and_never_trained_on(
    kind: str, blocks: str, dataset: Dataset, tmp_path: Path
) -> None:
    split, folds = choose_folds(dataset, asked(kind, blocks), tmp_path, quiet=True)
    tested: list[int] = []
    for fold in range(len(folds.names)):
        train, validation, test = cut_parts(split, folds, fold, 0.15, 0)
        assert min(len(train), len(validation), len(test)) > 0
        assert len({*train, *validation, *test}) == len(train) + len(validation) + len(test)
        assert len(train) + len(validation) + len(test) + folds.dropped(fold) == len(split.labels)
        tested += test.tolist()
    assert len(tested) == len(set(tested))
    if blocks != "diagonal" and kind != "transfer":
        assert sorted(tested) == list(range(len(split.labels)))


@pytest.mark.parametrize(("kind", "blocks"), [("cold-a", ""), ("cold-b", ""), *TWO_SIDED])
def test_what_is_held_out_was_not_seen(kind: str, blocks: str, dataset: Dataset, tmp_path: Path) -> None:
    """By sequence, or by cluster; where both sides are of one modality, on neither side."""
    options = asked(kind, blocks)
    groups = dataset.numbers()
    if kind == "cluster":
        groups = clusters_of(dataset, similarities_of(dataset, options, tmp_path, quiet=True))
    _, folds = choose_folds(dataset, options, tmp_path, quiet=True)
    for fold in range(len(folds.names)):
        train, validation, test = cut_parts(dataset, folds, fold, 0.15, 0)
        trained = np.concatenate([train, validation])
        for side in range(2):
            if kind == f"cold-{'ba'[side]}":
                continue
            known = np.concatenate([g[trained] for g in groups]) if dataset.one_modality else groups[side][trained]
            assert not np.isin(groups[side][test], known).any()


@pytest.mark.parametrize(("kind", "blocks"), [("cold-a", ""), ("cold-b", ""), *TWO_SIDED])
def test_what_chooses_is_cut_as_what_tests(kind: str, blocks: str, dataset: Dataset, tmp_path: Path) -> None:
    """No group of the validation part's side stands in the training part."""
    _, folds = choose_folds(dataset, asked(kind, blocks), tmp_path, quiet=True)
    assert folds.cut is not None
    for fold in range(len(folds.names)):
        train, validation, _ = cut_parts(dataset, folds, fold, 0.15, 0)
        apart = [
            not np.isin(groups[validation], groups[train]).any() for groups in (folds.cut.a_group, folds.cut.b_group)
        ]
        assert any(apart)


def test_a_diagonal_tests_a_sequence_in_one_fold_only(dataset: Dataset, tmp_path: Path) -> None:
    _, folds = choose_folds(dataset, asked("cold-both"), tmp_path, quiet=True)
    a, b = dataset.numbers()
    for side in (a, b):
        for number in set(side.tolist()):
            held = set(folds.of_pair[side == number].tolist()) - {-1}
            assert len(held) <= 1


def test_the_seed_decides(dataset: Dataset, tmp_path: Path) -> None:
    def cut(seed: int) -> str:
        options = asked("cold-both", seed=seed)
        return choose_folds(dataset, options, tmp_path, quiet=True).folds.digest(dataset)

    assert cut(0) == cut(0) != cut(1)


@pytest.mark.parametrize(("kind", "blocks"), KINDS)
def test_a_split_file_gives_the_same_split(kind: str, blocks: str, dataset: Dataset, tmp_path: Path) -> None:
    split, folds = choose_folds(dataset, asked(kind, blocks), tmp_path, quiet=True)
    path = tmp_path / "splits.tsv"
    digest = write_split(path, split, folds)
    again, read = read_split(path, dataset)
    assert read.digest(again) == digest == folds.digest(split)
    assert read.names == folds.names
    for fold in range(len(folds.names)):
        for ours, theirs in zip(
            cut_parts(split, folds, fold, 0.15, 0), cut_parts(again, read, fold, 0.15, 0), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_dropped_and_lopsided_is_said(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made_dataset(tmp_path, rng, count=4, members=8)
    choose_folds(dataset, asked("cluster", identity_b=0.5), tmp_path, quiet=True)
    said = capsys.readouterr().err
    assert "32 rna in 4 clusters (exact alignment" in said
    assert "more than a fold's 33%" not in said
    assert "lie off the diagonal and are in no test; --blocks all tests them too" in said
    assert "are neither tested nor trained on" in said
    choose_folds(dataset, asked("cluster", folds=4, identity_b=0.5), tmp_path, quiet=True)
    assert "one cluster has" in capsys.readouterr().err
    choose_folds(dataset, asked("transfer", test_on="species=mtr"), tmp_path, quiet=True)
    assert "133 pairs are of neither --train-on nor --test-on" in capsys.readouterr().err


def test_affinities_are_spread_over_the_folds(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng, task="regression")
    _, folds = choose_folds(dataset, asked("cold-b"), tmp_path, quiet=True)
    means = [dataset.labels[folds.of_pair == n].mean() for n in range(3)]
    assert np.ptp(means) < 0.2


BAD: dict[str, tuple[SplitOptions, str]] = {
    "more folds than clusters": (asked("cluster", folds=11), "a side has only 10 clusters"),
    "more folds than sequences": (asked("cold-a", folds=31), "a side has only 30 sequences"),
    "folds of both sides": (asked("cold-both", folds=31), "a side has only 30 sequences"),
    "unknown column": (asked("given", fold_column="cv"), "no column 'cv' in pairs.tsv"),
    "no --train-on": (asked("transfer", train_on=""), "--train-on is missing"),
    "no --test-on": (asked("transfer", test_on=""), "--test-on is missing"),
    "not COLUMN=VALUE": (asked("transfer", train_on="ath"), "is not COLUMN=VALUE"),
    "an empty value": (asked("transfer", train_on="species="), "is not COLUMN=VALUE"),
    "an empty value among others": (asked("transfer", train_on="species=ath,,mtr"), "is not COLUMN=VALUE"),
    "unknown column of a transfer": (asked("transfer", test_on="plant=mtr"), "--test-on: no column 'plant'"),
    "a value that is not there": (
        asked("transfer", test_on="species=osa"),
        "no pair has this value; values there: ath",
    ),
    "pairs on both sides": (asked("transfer", test_on="species=ath,mtr"), "134 pairs are of both"),
    "a file without a name": (asked("file"), "--split-file is missing"),
    "too many random folds": (asked("random", folds=100, seed=0)._replace(folds=399), "--folds 399"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_split_that_cannot_be_cut_is_one_line(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng)
    options, said = BAD[name]
    with pytest.raises(InputError, match=said.replace("(", r"\(")) as caught:
        choose_folds(dataset, options, tmp_path, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_fold_without_a_positive_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng, count=3, members=1, pairs=9)
    labels = np.array([1.0] + [0.0] * 8)
    with pytest.raises(InputError, match=r"that fold \d tests are all negative|too few"):
        choose_folds(dataset._replace(labels=labels), asked("cold-both"), tmp_path, quiet=True)


@pytest.mark.parametrize("kind", ["cold-a", "cold-both"])
def test_positives_alone_are_sent_to_negatives(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng)
    with pytest.raises(InputError, match="every pair is positive; `crossllm data negatives`"):
        choose_folds(dataset._replace(labels=np.ones(len(dataset.labels))), asked(kind), tmp_path, quiet=True)


def test_two_thresholds_for_one_set_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng, modalities=("rna", "rna"))
    with pytest.raises(InputError, match="both sides are rna and are clustered together"):
        choose_folds(dataset, asked("cluster", identity_a=0.9), tmp_path, quiet=True)


def edited(change: Callable[[list[list[str]]], object]) -> Callable[[Path], None]:
    """A split file with its table changed, its digest taken away."""

    def edit(path: Path) -> None:
        table = [line.split("\t") for line in path.read_text().splitlines()]
        change(table)
        path.write_text("".join("\t".join(row) + "\n" for row in table))
        path.with_name("splits.tsv.sha256").unlink()

    return edit


def set_cell(row: int, column: int, text: str) -> Callable[[list[list[str]]], object]:
    return lambda table: table[row].__setitem__(column, text)


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another id": (edited(set_cell(5, 0, "nobody")), ":6: no pair 'nobody'"),
    "another header": (edited(set_cell(0, 2, "part")), "is no split; a table with the header"),
    "a short row": (edited(lambda table: table[3].pop()), ":4: 6 cells, the header has 7"),
    "no number": (edited(set_cell(4, 3, "x")), "'x' is no number of a part"),
    "a pair twice": (edited(lambda t: t.append([*t[1][:2], "9", *t[1][3:]])), "the pair of line 2 again"),
    "only a header": (edited(lambda table: table.__delitem__(slice(1, None))), "holds no pair"),
    "empty": (lambda path: path.write_text(""), "is no split"),
    "a sequence in two parts": (edited(set_cell(1, 3, "7")), "lies in the parts"),
    "a fold that is no block": (edited(set_cell(1, 2, "5")), "does not test one block of parts"),
    "no fold": (edited(lambda table: [row.__setitem__(2, "-") for row in table[1:]]), "no pair has a fold"),
    "a lone carriage return": (edited(set_cell(3, 0, "x\ry")), ":4: carriage return inside the line"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_split_file_is_one_line(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng)
    path = tmp_path / "splits.tsv"
    write_split(path, *choose_folds(dataset, asked("cold-both", "all"), tmp_path, quiet=True))
    edit, said = BAD_FILES[name]
    edit(path)
    path.with_name("splits.tsv.sha256").unlink(missing_ok=True)
    with pytest.raises(InputError) as caught:
        read_split(path, dataset)
    assert said in str(caught.value)


def test_a_changed_split_file_is_noticed(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng)
    path = tmp_path / "splits.tsv"
    write_split(path, *choose_folds(dataset, asked("random"), tmp_path, quiet=True))
    path.write_text(path.read_text().replace("\t0\n", "\t1\n", 1))
    with pytest.raises(CacheCorrupt, match="remove that file if the split was changed on purpose"):
        read_split(path, dataset)


def test_ids_with_quotes_are_read_back(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng)
    dataset = dataset._replace(a_ids=[f'"{id_}",\'3" end' for id_ in dataset.a_ids])
    path = tmp_path / "splits.tsv"
    _, folds = choose_folds(dataset, asked("cold-a"), tmp_path, quiet=True)
    write_split(path, dataset, folds)
    assert read_split(path, dataset)[1].digest(dataset) == folds.digest(dataset)


def test_what_is_no_split_is_neither_read_nor_replaced(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, folds = choose_folds(made_dataset(tmp_path, rng), asked("random"), tmp_path, quiet=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        read_split(Path(), dataset)
    with pytest.raises(InputError, match="is no file"):
        write_split(Path(), dataset, folds)
    before = Path("pairs.tsv").read_bytes()
    with pytest.raises(InputError, match="something else than a split"):
        write_split(Path("pairs.tsv"), dataset, folds)
    assert Path("pairs.tsv").read_bytes() == before
    for _ in range(2):  # a split is replaced by another
        write_split(Path("splits.tsv"), dataset, folds)


def test_a_split_file_is_given_no_advice_that_it_cannot_take(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made_dataset(tmp_path, rng)
    path = tmp_path / "splits.tsv"
    write_split(path, *choose_folds(dataset, asked("cold-both"), tmp_path, quiet=True))
    assert "--blocks all" in capsys.readouterr().err
    choose_folds(dataset, asked("file"), tmp_path, path, quiet=True)
    said = capsys.readouterr().err
    assert "are in no test" in said
    assert "--blocks" not in said


def test_what_a_split_has_no_use_for_is_said(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made_dataset(tmp_path, rng)
    options = SplitOptions(kind="cold-a", folds=2, blocks="all", test_on="fold=1")
    choose_folds(dataset, options, tmp_path, quiet=True)
    said = capsys.readouterr().err
    assert "note: --blocks all: --split cold-a has no use for it" in said
    assert "note: --test-on fold=1: --split cold-a has no use for it" in said
    assert "--folds" not in said


def test_a_split_file_beside_another_split_is_refused() -> None:
    settings = {"split": None}
    assert take_settings({"split": None, "split_file": Path("s.tsv")}, settings) == {"split": "file"}
    with pytest.raises(InputError, match="--split cluster cuts another; leave one of the two out"):
        take_settings({"split": "cluster", "split_file": Path("s.tsv")}, settings)


def test_one_cluster_is_not_to_be_cut_by_fewer_folds(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset = made_dataset(tmp_path, rng, count=1, members=8, pairs=40)
    with pytest.raises(InputError, match=r"only 1 clusters; one cannot be cut, .*--identity-a"):
        choose_folds(dataset, asked("cluster"), tmp_path, quiet=True)


@pytest.mark.slow
def test_a_split_that_train_would_refuse_is_said(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    made_dataset(tmp_path / "d", rng, modalities=("rna", "rna"))
    arguments = f"--cache {tmp_path / 'd'} --split cold-both --blocks all --folds 2 --out {tmp_path / 's.tsv'}"
    split_command.main(arguments.split(), standalone_mode=False)
    assert "note: train would refuse this split: fold 0x1: 0 distinct sequence pairs" in capsys.readouterr().err


def test_pairs_that_a_split_file_does_not_name_are_left_out_and_counted(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made_dataset(tmp_path, rng)
    path = tmp_path / "splits.tsv"
    write_split(path, *choose_folds(dataset, asked("random"), tmp_path, quiet=True))
    edited(lambda table: table.__delitem__(slice(-7, None)))(path)
    found, _ = read_split(path, dataset)
    assert len(found.labels) == len(dataset.labels) - 7
    assert "7 pairs do not stand in" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_by_cluster_and_again_from_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    """`train --split cluster`, and `--split-file` of its splits.tsv: the same predictions; and --resume of it."""
    from made_runs import QUICK

    from crossllm.embed.run.run import RunOptions, run
    from crossllm.pipeline.train import train
    from crossllm.pipeline.training.inputs import TrainOptions

    cache = tmp_path / "cache"
    made_dataset(cache, rng)
    for modality in ("rna", "protein"):
        run(RunOptions(modality, cache / f"{modality}.fasta", cache, "profile", quiet=True))
    quick = dataclasses.replace(QUICK, split="cluster", folds=3, tokens="pooled", epochs=1)
    first = train(TrainOptions(cache, quick, out=tmp_path / "first", quiet=True))
    again = dataclasses.replace(quick, split="file")
    options = TrainOptions(
        cache, again, out=tmp_path / "second", split_file=tmp_path / "first" / "splits.tsv", quiet=True
    )
    second = train(options)
    names = ["predictions.tsv", "splits.tsv"]
    assert [(first.folder / n).read_bytes() for n in names] == [(second.folder / n).read_bytes() for n in names]
    (second.folder / "metrics.json").unlink()
    third = train(dataclasses.replace(options, split_file=None, resume=True))
    assert third.metrics["model"] == second.metrics["model"] == first.metrics["model"]
    assert first.metrics["tested"] < first.metrics["pairs"]


def test_a_split_of_another_dataset_with_the_same_ids_is_said(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "splits.tsv"
    write_split(path, *choose_folds(dataset, asked("random"), tmp_path, quiet=True))
    read_split(path, dataset)
    assert "cuts the dataset" not in capsys.readouterr().err
    read_split(path, dataset._replace(digest="0" * 64, name="other"))
    assert f"cuts the dataset '{dataset.name}', not 'other' as it is" in capsys.readouterr().err
    read_split(path, dataset._replace(digest="0" * 64))
    assert f"cuts the dataset '{dataset.name}' as it was then" in capsys.readouterr().err
    if (program := shutil.which("sha256sum")) is not None:
        done = subprocess.run(
            [program, "-c", "--strict", "splits.tsv.sha256"], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "splits.tsv: OK\n")
