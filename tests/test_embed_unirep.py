"""UniRep against its equations, its own published outputs, and as an encoder of the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import USERS_WEIGHTS, Program
from made_weights import load, random_tensors, rows_of
from plain_mlstm import plain_rows
from tolerances import ROWS
from torch import Tensor

from crossllm.cache import InputError, Record, record_of
from crossllm.cache.records.reading import read_records
from crossllm.embed.encoder import Loading, NotEncoded
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.encoders.unirep import LETTERS, SORTED_BATCHES, START, UNKNOWN, stack_of
from crossllm.embed.engine import choosing
from crossllm.embed.engine.mlstm import MultiplicativeLSTM, Stack, Steps, expected_shapes
from crossllm.embed.run import recipes, step_estimate
from crossllm.embed.run.dry_run import dry_run
from crossllm.embed.run.estimate import timed_by_shape, worth_timing
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.weights.checkpoint import read_weights, weights_digest
from crossllm.embed.weights.model_size import UNIREP_SIZES
from crossllm.embed.weights.published import local_weights
from crossllm.embed.weights.pull import ask, pull

STACKS = {"one layer": Stack(24, 1), "four layers": Stack(16, 4)}
LENGTHS = (1, 7, 7, 40, 2, 7)
every_stack = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def model(tensors: dict[str, Tensor], stack: Stack, compute: str = "float32") -> MultiplicativeLSTM:
    return MultiplicativeLSTM(tensors, stack, START, getattr(torch, compute), torch.device("cpu"))


def packed(found: MultiplicativeLSTM, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    lengths = [len(own) for own in ids]
    rows = found.rows(torch.tensor([token for own in ids for token in own]), lengths)
    return np.split(rows.numpy(), np.cumsum(lengths)[:-1])


def some_ids(rng: np.random.Generator, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    return [rng.integers(1, 24, n).tolist() for n in lengths]


def far(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@every_stack
def test_packed_rows_are_the_equations(stack: Stack, compute: str, rng: np.random.Generator) -> None:
    tensors = random_tensors(expected_shapes(stack), rng)
    assert any((tensors[name] < 0).any() for name in tensors if ".g" in name), "gains of both signs"
    ids = some_ids(rng)
    for own, rows in zip(ids, packed(model(tensors, stack, compute), ids), strict=True):
        assert far(rows, plain_rows(own, tensors, START)[1:]) < ROWS[compute]


@every_stack
def test_a_sequences_rows_do_not_depend_on_its_company(stack: Stack, rng: np.random.Generator) -> None:
    found = model(random_tensors(expected_shapes(stack), rng), stack)
    ids = some_ids(rng)
    together = packed(found, ids)
    for n in rng.permutation(len(ids)).tolist():
        (alone,) = packed(found, [ids[n]])
        assert far(together[n], alone) < 1e-5


@every_stack
def test_a_row_knows_what_stands_before_it_and_nothing_after(stack: Stack, rng: np.random.Generator) -> None:
    found = model(random_tensors(expected_shapes(stack), rng), stack)
    (own,) = some_ids(rng, [20])
    changed = [*own[:10], own[10] % 23 + 1, *own[11:]]
    before, after = packed(found, [own, changed])
    assert np.array_equal(before[:10], after[:10])
    assert all((before[n] != after[n]).any() for n in range(10, 20))


def test_every_token_is_computed_once_and_no_pad(rng: np.random.Generator) -> None:
    lengths = rng.integers(1, 30, 50)
    starts = np.cumsum(lengths) - lengths
    places = Steps.of(lengths.tolist(), torch.device("cpu")).places
    assert sorted(torch.cat(places).tolist()) == list(range(lengths.sum()))
    assert len(places) == lengths.max()
    for step, (now, later) in enumerate(pairwise(places)):
        assert set(now.tolist()) <= {start + step for start in starts.tolist()}
        # A sequence keeps its place among those that run: its state is the same row of h and c.
        assert torch.equal(now[: len(later)] + 1, later)


@pytest.fixture
def small(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, Tensor]]:
    """A file of random weights of unirep-64's shape, and the tensors."""
    tensors = random_tensors(expected_shapes(stack_of("unirep-64")), rng)
    head = {"dense.w": np.ones((64, 25), np.float32), "dense.b": np.ones(25, np.float32)}
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in tensors.items()}, **head)  # type: ignore[arg-type]
    return tmp_path / "w.npz", tensors


def ids_of(sequence: str) -> list[int]:
    return [LETTERS.index(letter) + 1 if letter in LETTERS else UNKNOWN for letter in sequence]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_the_encoder_gives_each_residue_its_row(
    compute: str, small: tuple[Path, dict[str, Tensor]], rng: np.random.Generator
) -> None:
    path, tensors = small
    texts = ["".join(rng.choice(list(LETTERS), n)) for n in (1, 30, 2, 90, 31)]
    records = [record_of("protein", str(n), text) for n, text in enumerate(texts)]
    for batch_tokens in (1, 64, 10_000):
        encoder = load("protein", "unirep-64", path, batch_tokens, compute=compute)
        for text, rows in zip(texts, rows_of(encoder, records), strict=True):
            assert rows.dtype == np.float32
            assert far(rows, plain_rows(ids_of(text), tensors, START)[1:]) < ROWS[compute]
        assert not encoder.notes


def test_letters_beyond_the_twenty_are_those_of_the_table(small: tuple[Path, dict[str, Tensor]]) -> None:
    """U and O have tokens; B, J, Z share that of X, which is said."""
    encoder = load("protein", "unirep-64", small[0])
    rows = {letter: rows_of(encoder, [record_of("protein", "x", f"MK{letter}")])[0] for letter in "XBJZUOKC"}
    for letter in "BJZ":
        assert np.array_equal(rows[letter], rows["X"])
    assert len({rows[letter].tobytes() for letter in "XUOKC"}) == 5
    assert encoder.notes == {"with letters that have no token of their own (B, J, Z), encoded as X": 3}


def test_what_does_not_fit_is_not_encoded_and_the_rest_is(
    small: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MultiplicativeLSTM.rows

    def rows(self: MultiplicativeLSTM, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        if len(ids) > 20:
            raise MemoryError
        return whole(self, ids, lengths)

    monkeypatch.setattr(MultiplicativeLSTM, "rows", rows)
    long, short = record_of("protein", "a", "M" * 21), record_of("protein", "b", "K" * 20)
    found = dict(load("protein", "unirep-64", small[0]).encode([long, short]))
    refused = found[long.key]
    assert isinstance(refused, NotEncoded)
    assert refused.reason.startswith("out of memory: 21 residues at once do not fit on cpu; use --compute bfloat16")
    (kept,) = found[short.key]
    assert kept.shape == (20, 64)


def test_another_size_and_other_weights_are_named(
    small: tuple[Path, dict[str, Tensor]], tmp_path: Path, rng: np.random.Generator
) -> None:
    with pytest.raises(InputError, match="these look like unirep-64: width 64, 4 layers; name `--encoder unirep-64`"):
        load("protein", "unirep", small[0])
    tensors = {name: tensor.numpy() for name, tensor in small[1].items()}
    for fault, say in (
        ({"mlstm.2.gh": None}, "mlstm.2.gh is missing"),
        ({"mlstm.1.b": np.zeros(9, np.float32)}, r"mlstm.1.b has shape \(9,\), \(256,\) is expected"),
        ({"embedding": np.ones((26, 10), np.int64)}, "embedding is of type torch.int64, a floating type is expected"),
        ({"other": np.zeros(1)}, "other is not one of its tensors"),
    ):
        changed = {name: array for name, array in (tensors | fault).items() if array is not None}
        np.savez(tmp_path / "bad.npz", **changed)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"--weights .*bad.npz: not the weights of this encoder: {say}"):
            load("protein", "unirep-64", tmp_path / "bad.npz")


def test_a_file_that_changes_while_it_is_loaded_is_refused(small: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = small
    recipe = ENCODERS["protein", "unirep-64"].recipe(weights_digest(path))
    np.savez(path, **{name: tensor.numpy() + 1 for name, tensor in tensors.items()})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="was changed while it was read"):
        ENCODERS["protein", "unirep-64"].load(Loading((recipe,), path))


@pytest.mark.slow
def test_a_run_stores_it_plans_it_and_acknowledges_it(
    program: Program, tmp_path: Path, small: tuple[Path, dict[str, Tensor]]
) -> None:
    (tmp_path / "p.fasta").write_text(">a\nMKVLA\n>b\nMKVLA\n>c\nMZ\n>d\n" + "L" * 3000 + "\n")
    flags = ("embed", "run", "--modality", "protein", "--input", "p.fasta", "--cache", "c", "--encoder", "unirep-64",
             "--weights", "w.npz")  # fmt: skip
    plan = program(*flags, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "w.npz, digested but not opened" in plan.stdout
    assert "time        not" not in plan.stdout
    told = program(*flags, "--long", "window")
    assert told.returncode == 2
    assert "unirep-64 takes sequences of any length whole; leave the flag out" in told.stderr
    done = program(*flags, "--ack-fd", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    keys = {record_of("protein", "x", text).key.hex() for text in ("MKVLA", "MZ", "L" * 3000)}
    assert keys <= set(done.stderr.splitlines())
    assert "embedded 3" in done.stdout
    assert "nothing to embed" in program(*flags, "--quiet").stdout
    other = program(*flags, "--compute", "bfloat16", "--new-recipe", "--quiet")
    assert "embedded 3" in other.stdout
    assert ", bfloat16)" in other.stdout


@pytest.mark.parametrize("batch_tokens", [1, 50, 300, 10_000])
def test_the_steps_that_are_counted_are_those_that_are_done(
    batch_tokens: int, small: tuple[Path, dict[str, Tensor]], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = rng.integers(1, 60, 40)
    done: list[int] = []
    whole = MultiplicativeLSTM.rows
    monkeypatch.setattr(
        MultiplicativeLSTM, "rows", lambda self, ids, own: done.append(max(own)) or whole(self, ids, own)
    )
    records = [record_of("protein", str(n), "".join(rng.choice(list(LETTERS), k))) for n, k in enumerate(lengths)]
    encoder = load("protein", "unirep-64", small[0], batch_tokens)
    assert len(list(encoder.encode(records))) == 40
    within_a_group = int(lengths.sum()) <= SORTED_BATCHES * batch_tokens
    counted = step_estimate.count_steps(lengths, batch_tokens)
    assert counted == sum(done) if within_a_group else counted <= sum(done)


def test_the_time_is_that_of_a_step_by_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of a second a step and a hundredth of one for each sequence in it."""
    timed: list[tuple[int, int]] = []

    def seconds(_model: object, lanes: int, length: int) -> float:
        timed.append((lanes, length))
        return length * (1 + lanes / 100)

    monkeypatch.setattr(step_estimate, "_seconds", seconds)
    info = ENCODERS["protein", "unirep-64"]
    lengths = np.array([100] * 30 + [50] * 60)
    found = step_estimate.seconds_of_steps(info.recipe(None), lengths, "cpu", 3000)
    assert {lanes for lanes, _ in timed} == {40}
    assert found == pytest.approx(150 * 1.4)
    many = np.full(5000, 10)
    assert step_estimate.seconds_of_steps(info.recipe(None), many, "cpu", 50_000) == pytest.approx(
        10 * 3.56 * 5000 / 256
    )
    assert timed_by_shape(info)
    assert worth_timing(info, info.recipe(None), np.full(10**6, 300), "cpu")
    assert not worth_timing(info, info.recipe(None), lengths, "cpu")


def test_a_dry_run_needs_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.fasta").write_text(">a\nMKVLA\n")
    monkeypatch.setattr(step_estimate, "ENOUGH", 0.0)
    found = dry_run(RunOptions("protein", tmp_path / "p.fasta", tmp_path / "c", "unirep-64"))
    assert (found.weights_at_hand, found.weights_opened, found.pending) == (False, False, 1)
    assert found.seconds is not None
    assert 0 < found.seconds < 10


def test_auto_measures_the_products_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Stack] = []

    def times(design: Stack, _device: torch.device) -> dict[str, float]:
        seen.append(design)
        return {"float32": 2.0, "bfloat16": 1.0}

    monkeypatch.setattr(choosing, "has_bfloat16", lambda _device: True)
    monkeypatch.setattr(choosing, "times", times)
    recipes._measured.cache_clear()
    assert recipes._fastest(ENCODERS["protein", "unirep-64"].recipe(None), "cpu") == "bfloat16"
    assert seen == [stack_of("unirep-64")]
    assert capsys.readouterr().err.startswith("note: --compute auto: bfloat16 for unirep-64: ")
    monkeypatch.undo()
    assert all(0 < taken < 10 for taken in choosing.times(Stack(16, 2), torch.device("cpu")).values())


Weights = Callable[[str], Path]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Weights:
    """Name → the published weights, at hand or pulled."""
    if USERS_WEIGHTS is None:
        monkeypatch.delenv("CROSSLLM_WEIGHTS")
    else:
        monkeypatch.setenv("CROSSLLM_WEIGHTS", USERS_WEIGHTS)

    def found(name: str) -> Path:
        try:
            return local_weights(name) or pull(ask(name, None, tmp_path / name, None), quiet=True).path
        except InputError as error:
            pytest.skip(f"no weights of {name} at hand, and no network: {error}")

    return found


@pytest.mark.network
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_unirep_gives_the_published_rows(compute: str, published: Weights, real_data: Path) -> None:
    """The rows that bio_embeddings keeps, made by jax-unirep.

    The first is the start token's.  Those of its second protein are made with the size of each gain of W_h and not
    the gain itself: versions 1 of jax-unirep normalised the stored weights in place, so that from the second call on
    the sign of a gain, which four have, was lost.
    """
    golden = np.load(real_data / "golden_embeddings" / "unirep.npz", allow_pickle=False)
    tensors, _ = read_weights(published("unirep"))
    tensors = {name: tensors[name] for name in expected_shapes(stack_of("unirep"))}
    assert int((tensors["mlstm.0.gh"] < 0).sum()) == 4
    squared = tensors | {"mlstm.0.gh": tensors["mlstm.0.gh"].abs()}
    for name, sequence, own in (("test_case 1", "PROTEIN", tensors), ("test_case 2", "SEQWENCE", squared)):
        found = model(own, stack_of("unirep"), compute)
        assert far(found.start[0].numpy(), golden[name][0]) < ROWS["float32"]
        (rows,) = packed(found, [ids_of(sequence)])
        assert far(rows, golden[name][1:]) < ROWS[compute]
    (rows,) = packed(model(tensors, stack_of("unirep")), [ids_of("SEQWENCE")])
    assert far(rows, golden["test_case 2"][1:]) > 0.5


@pytest.mark.network
def test_unirep_64_gives_the_rows_of_rpi1460(published: Weights, real_data: Path) -> None:
    """Those of another program, kept in float16, whose step below 1 is 5e-4."""
    records: dict[str, Record] = {
        record.id: record for record in read_records(real_data / "rpi1460" / "protein.fasta", "protein").records
    }
    encoder = load("protein", "unirep-64", published("unirep-64"))
    with h5py.File(real_data / "rpi1460" / "unirep64_embeddings.h5") as file:
        kept = {id_: file[id_][:].astype(np.float32) for id_ in file}
    assert len(kept) == 635
    for id_, rows in zip(kept, rows_of(encoder, [records[id_] for id_ in kept]), strict=True):
        assert rows.shape == kept[id_].shape
        assert np.abs(rows - kept[id_]).max() < 3e-4, id_


@pytest.mark.network
@pytest.mark.parametrize("name", UNIREP_SIZES)
def test_published_weights_give_the_equations(name: str, published: Weights) -> None:
    path = published(name)
    tensors, _ = read_weights(path)
    (rows,) = rows_of(load("protein", name, path), [record_of("protein", "x", "MKTAYIAKQRUOXB")])
    expected = plain_rows(ids_of("MKTAYIAKQRUOXB"), {n: tensors[n] for n in expected_shapes(stack_of(name))}, START)
    assert far(rows, expected[1:]) < ROWS["float32"]
