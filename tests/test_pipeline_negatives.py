"""Drawing negatives: degrees kept, no known positive or near one, as many as can be, hard ones among relatives."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import embedded_demo
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow
from sklearn.metrics import roc_auc_score

from crossllm.pipeline.data.dataset import Dataset, load_dataset
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.data.sequences import read_sequences
from crossllm.pipeline.evaluation.counts import count_scores
from crossllm.pipeline.negatives import making
from crossllm.pipeline.negatives.augmenting import OPEN
from crossllm.pipeline.negatives.candidates import EXCLUDED, Candidates, candidates_of
from crossllm.pipeline.negatives.counts import auroc_of_counts, deviation_of
from crossllm.pipeline.negatives.drawing import Drawn, Positives, draw
from crossllm.pipeline.negatives.making import make_negatives
from crossllm.pipeline.negatives.options import NegativeOptions
from crossllm.pipeline.negatives.rewiring import rewire
from crossllm.pipeline.similarity.rules import default_rule
from crossllm.pipeline.similarity.similarity import Similarity
from crossllm.pipeline.splits.choosing import similarities_of
from crossllm.pipeline.splits.given import given_folds
from crossllm.pipeline.splits.options import SplitOptions
from crossllm.pipeline.splits.parts import cut_parts

QUICK = ["--tokens", "pooled", "--epochs", "1", "--d-model", "8", "--d-state", "4", "--quiet"]


def made_similarity(rng: np.random.Generator, count: int, modality: str = "protein", links: float = 0.1) -> Similarity:
    """Random identities, and clusters of five."""
    upper = np.triu(rng.random((count, count)) * (rng.random((count, count)) < links), 1)
    identity = sparse.csr_matrix((upper + upper.T + np.eye(count)).astype(np.float32))
    keys = [n.to_bytes(32, "big") for n in range(count)]
    return Similarity(keys, np.arange(count) // 5, identity, default_rule(modality), "made")


def clusters_of(sides: tuple[Similarity, Similarity], hard: bool) -> tuple[np.ndarray, np.ndarray] | None:
    return (sides[0].component, sides[1].component) if hard else None


def made_positives(rng: np.random.Generator, a_count: int, b_count: int, pairs: int, parts: int) -> Positives:
    """Ids of which some share a sequence, and hubs."""
    drawn: set[tuple[int, int]] = set()
    while len(drawn) < pairs:
        drawn.add((int(a_count * rng.random() ** 1.5), int(b_count * rng.random() ** 1.5)))
    a_ids, b_ids = np.array(sorted(drawn)).T
    return Positives(a_ids, b_ids, a_ids * 2 // 3, b_ids * 2 // 3, rng.integers(0, parts, pairs))


def degrees(ids: np.ndarray, part: np.ndarray) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for key in zip(ids.tolist(), part.tolist(), strict=True):
        found[key] = found.get(key, 0) + 1
    return found


def assert_none_is_forbidden(
    positives: Positives, drawn: Drawn, sides: tuple[Similarity, Similarity], near: float, one_modality: bool
) -> None:
    """By plain loops over all positives: what `Candidates` does with sparse matrices."""
    identity = [side.identity.toarray() for side in sides]
    known = list(zip(positives.a.tolist(), positives.b.tolist(), strict=True))
    if one_modality:
        known += [(b, a) for a, b in known]
    met = set()
    for a, b in zip(positives.a[drawn.a_of].tolist(), positives.b[drawn.b_of].tolist(), strict=True):
        pair = (min(a, b), max(a, b)) if one_modality else (a, b)
        assert pair not in met, "drawn twice"
        met.add(pair)
        assert not (one_modality and a == b), "a sequence with itself"
        for a_known, b_known in known:
            limit = np.float32(near)
            assert not (identity[0][a, a_known] >= limit and identity[1][b, b_known] >= limit), (a, b)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("one_modality", [False, True])
@pytest.mark.parametrize("per_positive", [1, 3])
def test_degrees_are_kept_and_nothing_forbidden_is_drawn(
    rng: np.random.Generator, one_modality: bool, hard: bool, per_positive: int
) -> None:
    positives = made_positives(rng, 150, 150, 150, 3)
    a = made_similarity(rng, 100)
    sides = (a, a) if one_modality else (a, made_similarity(rng, 100))
    candidates = candidates_of(
        positives.a, positives.b, sides, 0.9, one_modality=one_modality, clusters=clusters_of(sides, hard)
    )
    drawn = draw(positives, candidates, per_positive, "degree", seed=0)
    assert sum(drawn.missing) <= (0 if per_positive == 1 else 0.1 * per_positive * 150)
    assert len(drawn.a_of) == per_positive * 150 - sum(drawn.missing)
    assert (positives.part[drawn.a_of] == positives.part[drawn.b_of]).all()
    for ids, of in ((positives.a_ids, drawn.a_of), (positives.b_ids, drawn.b_of)):
        wanted = {key: per_positive * count for key, count in degrees(ids, positives.part).items()}
        got = degrees(ids[of], positives.part[of])
        short = {key: count - got.get(key, 0) for key, count in wanted.items()}
        assert got.keys() <= wanted.keys()
        assert min(short.values()) >= 0
        assert [sum(count for key, count in short.items() if key[1] == n) for n in range(3)] == drawn.missing
    assert_none_is_forbidden(positives, drawn, sides, 0.9, one_modality)
    assert candidates.near() > 0


def test_uniform_pairs_are_not_forbidden_either(rng: np.random.Generator) -> None:
    positives = made_positives(rng, 150, 150, 150, 3)
    sides = made_similarity(rng, 100), made_similarity(rng, 100)
    candidates = candidates_of(positives.a, positives.b, sides, 0.8, one_modality=False)
    drawn = draw(positives, candidates, 2, "none", seed=0)
    assert (len(drawn.a_of), drawn.missing) == (300, [0, 0, 0])
    assert_none_is_forbidden(positives, drawn, sides, 0.8, one_modality=False)
    assert degrees(positives.a_ids[drawn.a_of], positives.part[drawn.a_of]) != {
        key: 2 * count for key, count in degrees(positives.a_ids, positives.part).items()
    }


ends = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=14)
pairs = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30)


@pytest.mark.slow
@given(ends=ends, forbidden=pairs, one_modality=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_as_many_ends_are_joined_as_can_be(
    ends: list[tuple[int, int]], forbidden: set[tuple[int, int]], one_modality: bool, seed: int
) -> None:
    """The largest number is that of a maximum flow; in one modality it is a bound."""
    a, b = np.array(ends).T
    empty = np.empty(0, np.int64)
    candidates = Candidates(6, one_modality, empty, empty, None)
    if forbidden:
        candidates = candidates.without(*np.array(sorted(forbidden)).T)
    partner = rewire(a, b, candidates, np.random.default_rng(seed))
    joined = partner[partner != OPEN]
    assert len(set(joined.tolist())) == len(joined), "an end is joined once"
    made = list(zip(a[partner != OPEN].tolist(), b[joined].tolist(), strict=True))
    assert len({tuple(sorted(pair)) if one_modality else pair for pair in made}) == len(made)
    for x, y in made:
        assert (x, y) not in forbidden
        assert not one_modality or ((y, x) not in forbidden and x != y)
    flow = np.zeros((14, 14), np.int32)  # 0: source, 1 to 6: A, 7 to 12: B, 13: sink
    for x, y in ends:
        flow[0, 1 + x] += 1
        flow[7 + y, 13] += 1
    for x in range(6):
        for y in range(6):
            allowed = candidates.level(np.array([x]), np.array([y]))[0] < EXCLUDED
            flow[1 + x, 7 + y] = int(allowed)
    most = maximum_flow(sparse.csr_matrix(flow), 0, 13).flow_value
    assert len(made) <= most if one_modality else len(made) == most


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("one_modality", [False, True])
def test_a_row_of_levels_is_the_levels(rng: np.random.Generator, one_modality: bool, hard: bool) -> None:
    a = made_similarity(rng, 40)
    sides = (a, a) if one_modality else (a, made_similarity(rng, 30))
    width = len(sides[1].keys)
    pairs = rng.integers(0, 40, 60), rng.integers(0, width, 60)
    candidates = candidates_of(*pairs, sides, 0.7, one_modality=one_modality, clusters=clusters_of(sides, hard))
    b = rng.permutation(width)
    for x in range(40):
        level = candidates.level(np.full(width, x), b)
        assert (candidates.row(x, b) == level).all()
        if one_modality:
            assert (candidates.level(b, np.full(width, x)) == level).all()
    assert {level for x in range(40) for level in candidates.row(x, b).tolist()} - {EXCLUDED} <= {*candidates.levels()}


@pytest.mark.parametrize("one_modality", [False, True])
def test_hard_negatives_are_relatives_of_positive_partners(rng: np.random.Generator, one_modality: bool) -> None:
    positives = made_positives(rng, 150, 150, 150, 3)
    a = made_similarity(rng, 100, links=0.02)
    sides = (a, a) if one_modality else (a, made_similarity(rng, 100, links=0.02))
    known = list(zip(positives.a.tolist(), positives.b.tolist(), strict=True))
    known += [(b, a) for a, b in known] if one_modality else []

    def relatives(hard: bool) -> int:
        candidates = candidates_of(
            positives.a, positives.b, sides, 0.9, one_modality=one_modality, clusters=clusters_of(sides, hard)
        )
        drawn = draw(positives, candidates, 1, "degree", seed=0)
        assert_none_is_forbidden(positives, drawn, sides, 0.9, one_modality)
        count = 0
        for x, y in zip(positives.a[drawn.a_of].tolist(), positives.b[drawn.b_of].tolist(), strict=True):
            b_near = any(x == p and sides[1].component[y] == sides[1].component[q] for p, q in known)
            a_near = any(y == q and sides[0].component[x] == sides[0].component[p] for p, q in known)
            level = 0 if b_near or (one_modality and a_near) else 1 if a_near else 2
            count += level < 2
            if hard:
                assert candidates.level(np.array([x]), np.array([y]))[0] == level
        return count

    assert relatives(hard=True) > 1.3 * relatives(hard=False)


def test_what_cannot_be_drawn_is_counted_in_its_part() -> None:
    """One RNA that binds all four proteins has no negative; the other part is not touched by that."""
    a, b = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 1, 2, 3, 4, 5])
    positives = Positives(a, b, a, b, np.array([0, 0, 0, 0, 1, 1]))
    exact = [Similarity([bytes([n]) for n in range(count)], np.arange(count), sparse.eye(count, format="csr"),
                        default_rule("rna"), "made") for count in (3, 6)]  # fmt: skip
    candidates = candidates_of(a, b, (exact[0], exact[1]), 0.9, one_modality=False)
    drawn = draw(positives, candidates, 1, "degree", seed=0)
    assert drawn.missing == [4, 0]
    assert sorted(zip(drawn.a_of.tolist(), drawn.b_of.tolist(), strict=True)) == [(4, 5), (5, 4)]
    label = np.array([1] * 6 + [0] * 2)
    ids = np.concatenate([a, a[drawn.a_of]]), np.concatenate([b, b[drawn.b_of]])
    part = np.concatenate([positives.part, positives.part[drawn.a_of]])
    assert deviation_of(ids, label, part, 1) == (4, 8 / 9, 5, 9)


def test_a_seed_is_a_draw(rng: np.random.Generator) -> None:
    positives = made_positives(rng, 150, 150, 150, 3)
    sides = made_similarity(rng, 100), made_similarity(rng, 100)
    candidates = candidates_of(positives.a, positives.b, sides, 0.9, one_modality=False)
    draws = [draw(positives, candidates, 2, "degree", seed) for seed in (0, 0, 1)]
    codes = [sorted(zip(d.a_of.tolist(), d.b_of.tolist(), strict=True)) for d in draws]
    assert codes[0] == codes[1] != codes[2]
    assert len({*codes[0]} & {*codes[2]}) < 0.5 * len(codes[0])


@pytest.mark.parametrize("one_modality", [False, True])
def test_auroc_of_counts_is_what_plain_counting_gives(rng: np.random.Generator, one_modality: bool) -> None:
    a, b = rng.integers(0, 12, 200), rng.integers(0, 12, 200)
    label, part, ratio = (rng.random(200) < 0.3 + 0.03 * a).astype(int), rng.integers(0, 4, 200), 2
    areas = []
    for n in range(4):
        scores = []
        for i in np.flatnonzero(part == n):
            score = 0.0
            for side, own in ((a, a[i]), (b, b[i])):
                columns = (a, b) if one_modality else (side,)
                seen = [label[j] for column in columns for j in range(200) if part[j] != n and column[j] == own]
                score += np.log((sum(seen) + 1) / (len(seen) - sum(seen) + ratio))
            scores.append(round(score, 9))
        areas.append(roc_auc_score(label[part == n], scores))
    assert auroc_of_counts((a, b), label, part, ratio, one_modality=one_modality) == pytest.approx(np.mean(areas))


def test_counts_give_away_partners_that_are_positive_only() -> None:
    a = np.tile(np.arange(10), 8)
    label, part = (a < 5).astype(int), np.repeat([0, 1], 40)
    assert auroc_of_counts((a, a * 0), label, part, 1, one_modality=False) == 1.0
    assert auroc_of_counts((a, a * 0), np.tile([0, 1], 40), part, 1, one_modality=False) == pytest.approx(1.0)
    balanced = np.repeat([0, 1, 1, 0], 20)
    assert auroc_of_counts((np.tile(np.arange(20), 4), np.zeros(80, int)), balanced, part, 1, one_modality=False) == 0.5


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.slow
def test_a_new_dataset_names_its_parent_and_is_trained_on(tmp_path: Path, program: Program) -> None:
    demo = embedded_demo(tmp_path / "demo", entities=40, pairs=240)
    made = program("crossllm", "data", "negatives", "--cache", "demo", "--out", "sets/new", "--folds", "3")
    assert made.returncode == 0, made.stderr
    blank = program("crossllm", "data", "negatives", "--cache", "demo", "--out", "a new set", "--folds", "3")
    assert "so keep them: train --cache 'a new set' --split given" in blank.stdout
    old = [row for row in table(demo) if row["label"] == "1"]
    new = table(tmp_path / "sets" / "new")
    positives = [(row["a_id"], row["b_id"]) for row in new if row["label"] == "1"]
    assert positives == [(row["a_id"], row["b_id"]) for row in old]
    assert f"note: {240 - len(old)} negatives of demo are left out" in made.stderr
    assert made.stdout.startswith(
        f"{len(old)} positives and {len(old)} negatives in 3 parts, matched by degree, seed 0"
    )
    assert "AUROC of the ratio of counts: 0.500 by id, 0.500 by sequence" in made.stdout
    for side in ("a_id", "b_id"):
        counts = [sorted((row[side], row["fold"]) for row in new if row["label"] == value) for value in "01"]
        assert counts[0] == counts[1]
    head = tomllib.loads((tmp_path / "sets" / "new" / "dataset.toml").read_text())
    assert head["embeddings"] == "../../demo"
    assert head["source"] == {
        "parent": "demo", "parent_sha256": load_dataset(demo)[0].digest, "generator": "crossllm data negatives",
        "per_positive": 1, "match": "degree", "hard": False, "near": 0.9, "folds": 3, "seed": 0,
    }  # fmt: skip
    trained = program("train", "--cache", "sets/new", "--split", "given", *QUICK)
    assert trained.returncode == 0, trained.stderr
    assert "id_only" in trained.stdout
    before = (tmp_path / "sets" / "new" / "dataset.toml").read_bytes()
    again = program("crossllm", "data", "negatives", "--cache", "demo", "--out", "sets/new", "--folds", "3")
    assert (again.returncode, again.stdout) == (0, made.stdout)
    assert (tmp_path / "sets" / "new" / "dataset.toml").read_bytes() == before
    of_new = program("crossllm", "data", "negatives", "--cache", "sets/new", "--out", "third", "--fold-column", "fold")
    assert of_new.returncode == 0, of_new.stderr
    assert tomllib.loads((tmp_path / "third" / "dataset.toml").read_text())["embeddings"] == "../demo"


def made_dataset(folder: Path, rng: np.random.Generator, sides: tuple[str, str]) -> Dataset:
    """Families of six sequences, some letters of which differ, and positives alone; the last column names a part."""
    letters = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
    files = {}
    for modality, changed in (("rna", 0.12), ("protein", 0.4)):
        lines = []
        for family in range(4):
            first = rng.choice(list(letters[modality]), 80)
            for member in range(6):
                other = np.where(rng.random(80) < changed, rng.choice(list(letters[modality]), 80), first)
                lines.append(f">{modality}{family}_{member}\n{''.join(other)}\n")
        files[modality] = "".join(lines)
    smiles = ["CCO", "CCN", "CCCC", "c1ccccc1", "c1ccccc1O", "c1ccccc1N", "CC(=O)O", "CC(=O)N", "CCCl", "CCBr", "CCOC",
              "C1CCCCC1", "C1CCCCC1O", "c1ccncc1", "c1ccncc1C", "[O-]c1ccccc1", "CC(=O)[O-]", "C[C@H](N)O"]  # fmt: skip
    files["molecule"] = "".join(f"molecule{n // 6}_{n % 6}\t{text}\n" for n, text in enumerate(smiles))
    folder.mkdir()
    drawn: set[tuple[str, str]] = set()
    while len(drawn) < 40:
        a, b = (f"{side}{rng.integers(4 if side != 'molecule' else 3)}_{rng.integers(6)}" for side in sides)
        if a != b and (b, a) not in drawn:
            drawn.add((a, b))
    rows = "".join(f"{a}\t{b}\t{'xyz'[n % 3]}\n" for n, (a, b) in enumerate(sorted(drawn)))
    (folder / "pairs.tsv").write_text("a_id\tb_id\tpart\n" + rows)
    for modality in set(sides):
        (folder / modality).write_text(files[modality])
    from crossllm.pipeline.data.pairs import Columns

    import_dataset(ImportOptions(Side(sides[0], folder / sides[0]), Side(sides[1], folder / sides[1]),
                                 folder / "pairs.tsv", folder / "set", Columns(label=None)))  # fmt: skip
    return load_dataset(folder / "set")[0]


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("sides", [("rna", "protein"), ("rna", "molecule"), ("rna", "rna")], ids="-".join)
def test_every_kind_of_pair(tmp_path: Path, rng: np.random.Generator, sides: tuple[str, str], hard: bool) -> None:
    parent = made_dataset(tmp_path / "made", rng, sides)
    assert parent.labels.all()
    options = NegativeOptions(tmp_path / "made" / "set", tmp_path / "new", hard=hard, fold_column="part")
    lines = make_negatives(options, quiet=True)
    found = load_dataset(tmp_path / "new")[0]
    assert list(found.extra) == ["part"]
    assert found.modality_a, found.modality_b == sides
    a, b = similarities_of(parent, SplitOptions(), tmp_path / "made" / "set", quiet=True)
    alike = [(s.identity.toarray() >= np.float32(0.9)) for s in (a, b)]
    numbers = list(zip(a.numbers(found.a_keys).tolist(), b.numbers(found.b_keys).tolist(), strict=True))
    known = [pair for pair, label in zip(numbers, found.labels.tolist(), strict=True) if label == 1]
    known += [(y, x) for x, y in known] if parent.one_modality else []
    drawn = [pair for pair, label in zip(numbers, found.labels.tolist(), strict=True) if label == 0]
    for x, y in drawn:
        assert not any(alike[0][x, p] and alike[1][y, q] for p, q in known)
        assert not parent.one_modality or (x != y and drawn.count((x, y)) + drawn.count((y, x)) == 1)
    if "molecule" in sides:  # two forms of one substance are never a positive and a negative
        assert not any(x == p and b.component[y] == b.component[q] for x, y in drawn for p, q in known)
        b = similarities_of(parent, SplitOptions(molecules="ecfp"), tmp_path / "made" / "set", quiet=True)[1]
    if hard:
        of_a, of_b = a.component.tolist(), b.component.tolist()
        relative = sum(
            any((x == p and of_b[y] == of_b[q]) or (y == q and of_a[x] == of_a[p]) for p, q in known) for x, y in drawn
        )
        assert f"hard: {relative} of {len(drawn)}" in "\n".join(lines)
        assert relative > len(drawn) / 2 or "molecule" in sides
    for modality in set(sides):
        assert read_sequences(tmp_path / "new", modality).items() <= read_sequences(options.cache_dir, modality).items()


@pytest.mark.slow
def test_a_ratio_that_few_pairs_allow_is_refused_and_says_what_would_do(tmp_path: Path, program: Program) -> None:
    embedded_demo(tmp_path / "demo", entities=12, pairs=36)
    refused = program("crossllm", "data", "negatives", "--cache", "demo", "--out", "new", "--per-positive", "50",
                      "--folds", "2")  # fmt: skip
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert "negatives can be drawn (--per-positive 50, --near 0.9)" in line
    ratio = line.split("--per-positive ")[2].split()[0]
    assert line.endswith(" would do")
    assert not (tmp_path / "new").exists()
    done = program("crossllm", "data", "negatives", "--cache", "demo", "--out", "new", "--per-positive", ratio,
                   "--folds", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_counts_tell_nothing_on_rpi1460(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the given folds, as `id_only` sees it too; the alignment of its sequences, minutes, is left out here."""
    source, folder = real_data / "rpi1460", tmp_path / "rpi1460"
    sides = Side("rna", source / "rna.fasta"), Side("protein", source / "protein.fasta")
    import_dataset(ImportOptions(*sides, source / "pairs.tsv", folder))

    def exact(dataset: Dataset, *_: object, **__: object) -> tuple[Similarity, Similarity]:
        found = []
        for modality, keys in ((dataset.modality_a, dataset.a_keys), (dataset.modality_b, dataset.b_keys)):
            distinct = sorted(set(keys))
            eye = sparse.eye(len(distinct), format="csr", dtype=np.float32)
            found.append(Similarity(distinct, np.arange(len(distinct)), eye, default_rule(modality), "exact"))
        return found[0], found[1]

    monkeypatch.setattr(making, "similarities_of", exact)
    for match, low, high in (("degree", 0.47, 0.53), ("none", 0.58, 0.8)):
        out = tmp_path / match
        make_negatives(NegativeOptions(folder, out, match=match, fold_column="fold"), quiet=True)  # type: ignore[arg-type]
        found = load_dataset(out)[0]
        assert (len(found.labels), found.labels.sum()) == (2920, 1460)
        folds = given_folds(found, "fold")
        for by_sequence in (False, True):
            areas = []
            for n in range(5):
                train, validation, test = cut_parts(found, folds, n, 0.15, 0)
                fitted = np.concatenate([train, validation])
                sides = found.numbers(by_sequence=by_sequence)
                score = count_scores(sides, found.labels, found.task, fitted, test, one_modality=found.one_modality)
                areas.append(roc_auc_score(found.labels[test], score))
            area = np.mean(areas)
            assert low <= area <= high or (match == "none" and area > 0.53), (match, by_sequence, area)
