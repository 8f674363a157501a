"""`embed run --layer 2,4,6`: one pass of the model, a recipe for each layer, and in each only what it lacks."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from faultio import Fail, FaultyOs, Op, Stop, Stopped, installed
from made_weights import random_tensors, rnabert_shapes
from safetensors.torch import save_file
from test_embed_transformer import _fair_names, tiny
from torch import Tensor

from crossllm.cache import CacheReader, Conflict, InputError, Recipe, list_recipes
from crossllm.cache.console.runner import Terminated
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.store.background_writer import BackgroundWriter
from crossllm.embed.cli import _in_words
from crossllm.embed.encoder import EncoderInfo, Loading, NotEncoded, Outputs
from crossllm.embed.encoders import esm2
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.engine.transformer import Transformer
from crossllm.embed.run import storing
from crossllm.embed.run.dry_run import dry_run
from crossllm.embed.run.dry_run_lines import announce, in_lines
from crossllm.embed.run.joint_ack import JointAck
from crossllm.embed.run.plan import RunOptions, make_plan
from crossllm.embed.run.recipes import resolve_recipes
from crossllm.embed.run.run import run

SEQUENCES = {"a": "ACGU" * 120, "b": "GGAUC" * 4, "c": "CCCAUU" * 3, "d": "AUGGCUUA" * 3, "e": "ACGU"}
"""The first is longer than RNABERT takes whole."""


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{i}\n{s}\n" for i, s in records.items()))
    return path


@pytest.fixture
def options(tmp_path: Path, rng: np.random.Generator) -> RunOptions:
    """RNABERT of six layers with weights drawn at random, over `SEQUENCES` in windows."""
    save_file(random_tensors(rnabert_shapes(), rng), tmp_path / "w.safetensors")
    fasta, weights = write_fasta(tmp_path / "in.fasta", SEQUENCES), tmp_path / "w.safetensors"
    return RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights, long="window", quiet=True)


def contents(cache: Path, modality: str = "rna") -> dict[str, dict[bytes, bytes]]:
    """Folder of a recipe → key → its rows."""
    readers = [CacheReader(cache, recipe) for recipe in list_recipes(cache, modality)]
    return {reader.recipe.folder_name: {key: reader[key].tobytes() for key in reader} for reader in readers}


def reader_of(cache: Path, layer: str | None) -> CacheReader:
    (recipe,) = [recipe for recipe in list_recipes(cache, "rna") if recipe.layer == layer]
    return CacheReader(cache, recipe)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """Tokens and layers of every pass of the model."""
    seen: list[tuple[int, tuple[int, ...]]] = []
    real = Transformer.rows

    def rows(self: Transformer, ids: Tensor, lengths: Sequence[int], layers: Sequence[int] = ()) -> list[Tensor]:
        seen.append((len(ids), tuple(layers)))
        return real(self, ids, lengths, layers)

    monkeypatch.setattr(Transformer, "rows", rows)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_each_layer_is_bit_equal_to_a_run_of_it_alone(
    options: RunOptions, tmp_path: Path, compute: str, passes: list[tuple[int, tuple[int, ...]]]
) -> None:
    options = dataclasses.replace(options, compute=compute, dtype="float32", batch_tokens=100)
    done = run(dataclasses.replace(options, layers=(4, 6, 1)))
    together, tokens = contents(tmp_path / "c"), sum(tokens for tokens, _ in passes)
    assert {layers for _, layers in passes} == {(4, 6, 1)}, "all in one pass"
    assert [part.layer for part in done.recipes] == ["4", None, "1"], "the last layer has no number in its recipe"
    assert (done.embedded, done.residues_embedded) == (len(SEQUENCES), sum(map(len, SEQUENCES.values())))
    for layers in ((4,), (), (1,)):
        passes.clear()
        run(dataclasses.replace(options, layers=layers, cache_dir=tmp_path / "alone"))
        assert sum(tokens for tokens, _ in passes) == tokens, "once for all layers what it is for one"
    assert together == contents(tmp_path / "alone")
    assert len({rows for held in together.values() for rows in held.values()}) == 3 * len(SEQUENCES)
    assert run(dataclasses.replace(options, layers=(1, 4, 6))).already == len(SEQUENCES)


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_so_it_is_of_a_model_with_a_final_norm(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, compute: str
) -> None:
    tiny(monkeypatch, esm2, "esm2-8m", (320, 6, 20))
    save_file(_fair_names(esm2.published(320, 6, 20), rng), tmp_path / "w.safetensors")
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKTAYIAKQR", "b": "LAGV" * 9, "c": "MKV"})
    options = RunOptions(
        "protein", fasta, tmp_path / "c", "esm2-8m", tmp_path / "w.safetensors", dtype="float32", compute=compute,
        quiet=True,
    )  # fmt: skip
    run(dataclasses.replace(options, layers=(2, 5, 6)))
    for layers in ((2,), (5,), ()):
        run(dataclasses.replace(options, layers=layers, cache_dir=tmp_path / "alone"))
    assert contents(tmp_path / "c", "protein") == contents(tmp_path / "alone", "protein")


def test_each_sequence_is_computed_once_and_stored_where_it_is_missing(
    options: RunOptions, tmp_path: Path, passes: list[tuple[int, tuple[int, ...]]]
) -> None:
    half = write_fasta(tmp_path / "half.fasta", {name: SEQUENCES[name] for name in "bc"})
    run(dataclasses.replace(options, input=half, layers=(2,)))
    run(dataclasses.replace(options, input=write_fasta(tmp_path / "e.fasta", {"e": SEQUENCES["e"]}), layers=(2, 5)))
    before = {path for path in (tmp_path / "c").rglob("*.json") if path.parent.name == "commits"}
    passes.clear()
    done = run(dataclasses.replace(options, layers=(2, 5), batch_tokens=1))
    assert [(part.layer, part.already, part.embedded) for part in done.recipes] == [("2", 3, 2), ("5", 1, 4)]
    assert (done.embedded, done.already, done.failed) == (4, 1, 0)
    assert done.residues_embedded == sum(len(SEQUENCES[name]) for name in "abcd")
    assert len(passes) == 5, "two windows of a, and b, c, d"
    new = {path for path in (tmp_path / "c").rglob("*.json") if path.parent.name == "commits"} - before
    assert sorted(json.loads(path.read_text())["records"] for path in new) == [2, 4]
    assert not verify(tmp_path / "c", data=True).damage


def test_a_layer_that_lacks_nothing_is_not_computed(
    options: RunOptions, passes: list[tuple[int, tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(options)  # the last, the deepest
    passes.clear()
    done = run(dataclasses.replace(options, layers=(1, 6, 3)))
    assert {layers for _, layers in passes} == {(1, 3)}
    assert [part.embedded for part in done.recipes] == [5, 0, 5]
    assert (done.embedded, done.already) == (5, 0)
    passes.clear()
    monkeypatch.setattr("crossllm.embed.run.run._load", None)
    again = run(dataclasses.replace(options, layers=(3, 6, 1)))
    assert (again.embedded, again.already, passes) == (0, 5, [])


LAYER_ERRORS = {
    "twice": ("2,5,2", "error: --layer 2,5,2: names layer 2 twice; name it once"),
    "0 first": ("0,2", "error: --layer 0: rnabert has layers 1 to 6; leave the flag out for the last"),
    "7 last": ("2,6,7", "error: --layer 7: rnabert has layers 1 to 6; leave the flag out for the last"),
    "7 first": ("7,2", "error: --layer 7: rnabert has layers 1 to 6; leave the flag out for the last"),
    "7 alone": ("7", "error: --layer 7: rnabert has layers 1 to 6; leave the flag out for the last"),
    "empty": ("2,,5", "error: Invalid value for '--layer': '2,,5' is not the number of a layer, or several as 6,12"),
    "open end": ("2,", "error: Invalid value for '--layer': '2,' is not the number"),
    "spaces": ("2, 5", "error: Invalid value for '--layer': '2, 5' is not the number"),
    "a word": ("last", "error: Invalid value for '--layer': 'last' is not the number"),
    "negative": ("-1", "error: Invalid value for '--layer': '-1' is not the number"),
    "endless": ("1" * 99, "error: Invalid value for '--layer': '111"),
}


@pytest.mark.parametrize("name", LAYER_ERRORS)
def test_a_list_of_layers_that_cannot_be_is_one_line(
    options: RunOptions, program: Program, tmp_path: Path, name: str
) -> None:
    given, said = LAYER_ERRORS[name]
    flags = ("--modality", "rna", "--input", "in.fasta", "--encoder", "rnabert", "--weights", "w.safetensors")
    for more in ((), ("--dry-run",)):
        done = program("embed", "run", *flags, "--cache", "c", "--layer", given, "--quiet", *more)
        assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.stderr
        assert done.stderr.startswith(said), done.stderr
    assert not (tmp_path / "c").exists()


def test_a_repeated_flag_or_an_encoder_without_layers_is_one_line(program: Program, tmp_path: Path) -> None:
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU"})
    flags = ("embed", "run", "--modality", "rna", "--input", "in.fasta", "--encoder", "profile", "--cache", "c")
    done = program(*flags, "--layer", "2", "--layer", "5")
    assert (done.returncode, done.stderr) == (
        2, "error: --layer: is given twice; name all layers in one list, e.g. --layer 6,12,33\n"
    )  # fmt: skip
    done = program(*flags, "--layer", "1,2", "--quiet")
    assert (done.returncode, done.stderr) == (
        2, "error: --layer 1: profile has one output, and no choice of layers; leave the flag out for the last\n"
    )  # fmt: skip
    assert "e.g. 6,12,33: one pass of the model" in " ".join(program("embed", "run", "--help").stdout.split())


def settled(options: RunOptions, **asked: object) -> list[tuple[str | None, str, str, str, dict[str, str]]]:
    found = resolve_recipes(dataclasses.replace(options, **asked), ENCODERS["rna", "rnabert"])  # type: ignore[arg-type]
    return [(r.layer, r.compute, r.dtype, r.long, r.options) for r in found]


WINDOW = "window:440:220"


def test_a_new_layer_is_computed_as_those_held_and_stored_as_its_own(options: RunOptions) -> None:
    """The type of storage is no matter of the pass: each layer's own, as in a run of it alone."""
    padded = {"attention": "padded-440"}
    run(dataclasses.replace(options, layers=(4,), compute="bfloat16", dtype="float32", options=padded))
    plain = dataclasses.replace(options, long=None)
    expected = [("2", "bfloat16", "float16", WINDOW, padded), ("4", "bfloat16", "float32", WINDOW, padded)]
    assert settled(plain, layers=(2, 4)) == expected
    assert settled(plain, layers=(2, 4), compute="auto") == expected
    assert settled(plain, layers=(4, 2)) == expected[::-1]
    assert settled(plain, layers=(2,)) == [("2", "float32", "float16", "whole", {})], "alone it follows nothing"
    assert settled(plain, layers=(2, 4), dtype="float32")[0][2] == "float32"
    with pytest.raises(Conflict, match=r"dtype: float16, not float32; leave the flag out"):
        settled(plain, layers=(2, 4), dtype="float16")
    with pytest.raises(Conflict, match=r"compute: float32, not bfloat16; leave the flag out"):
        settled(plain, layers=(2, 4), compute="float32")
    anew = settled(plain, layers=(2, 4), compute="float32", dtype="float16", new_recipe=True)
    assert [found[1:3] for found in anew] == [("float32", "float16")] * 2
    done = run(dataclasses.replace(plain, layers=(2, 4)))
    assert [part.embedded for part in done.recipes] == [len(SEQUENCES), 0]
    assert reader_of(options.cache_dir, "2").recipe.dtype == "float16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compute": "bfloat16"}, "differ in compute, .*: layer 6 has float32, layer 2 has bfloat16; .* --compute$"),
        ({"long": "truncate"}, f"differ in long, .*: layer 6 has {WINDOW}, layer 2 has truncate:440; .* --long$"),
        (
            {"options": {"attention": "padded-440"}},
            "differ in options, .*: layer 6 has the defaults, layer 2 has attention=padded-440; .* --option$",
        ),
    ],
)
def test_layers_that_no_single_pass_makes_are_a_conflict(
    options: RunOptions, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    """By what the cache holds of each; what agrees can be run, and new ones can be started."""
    run(options)
    run(dataclasses.replace(options, layers=(2,), **change))  # type: ignore[arg-type]
    follow = dataclasses.replace(options, long=None)
    with pytest.raises(Conflict, match=rf"^--layer 6,2,3: these recipes of \S+ {said}") as caught:
        run(dataclasses.replace(follow, layers=(6, 2, 3)))
    assert caught.value.exit_code == 5
    assert len(list_recipes(tmp_path / "c", "rna")) == 2, "nothing was begun"
    assert run(dataclasses.replace(follow, layers=(6, 3))).embedded == len(SEQUENCES)
    anew = dataclasses.replace(follow, layers=(6, 2), new_recipe=True, **change)  # type: ignore[arg-type]
    assert [part.embedded for part in run(anew).recipes] == [len(SEQUENCES), 0]


class Layered:
    """An encoder whose rows tell the layer and the length; it answers as it is told where `answer` says something."""

    name, modality, dim = "layered", "rna", 2
    limit: int | None = None

    def __init__(self, loading: Loading, answer: Callable[[Record, int], float | NotEncoded | None]) -> None:
        self._layers = [int(recipe.layer or 6) for recipe in loading.recipes]
        self._answer = answer
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        for record in records:
            answers = [self._answer(record, layer) for layer in self._layers]
            if told := next((answer for answer in answers if isinstance(answer, NotEncoded)), None):
                yield record.key, told
                continue
            yield (
                record.key,
                tuple(
                    np.full((record.length, 2), 1000 * layer + record.length if value is None else value, np.float32)
                    for layer, value in zip(self._layers, answers, strict=True)
                ),
            )


@pytest.fixture
def layered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., RunOptions]:
    """Puts an encoder of six layers called layered into the table; options of a run of it."""

    def put(
        answer: Callable[[Record, int], float | NotEncoded | None] = lambda _record, _layer: None, **asked: object
    ) -> RunOptions:
        info = EncoderInfo("layered", "rna", 2, "none", lambda loading: Layered(loading, answer), layers=6)
        monkeypatch.setitem(ENCODERS, ("rna", "layered"), info)
        fasta = write_fasta(tmp_path / "in.fasta", SEQUENCES)
        plain = RunOptions("rna", fasta, tmp_path / "c", "layered", layers=(2, 6), quiet=True)
        return dataclasses.replace(plain, **asked)  # type: ignore[arg-type]

    return put


def failed_lists(cache: Path) -> dict[str, list[str]]:
    """Layer → ids that its failed.tsv lists."""
    found = {}
    for recipe in list_recipes(cache, "rna"):
        if (path := recipe.folder(cache) / "failed.tsv").exists():
            found[recipe.layer or "last"] = [line.split("\t")[0] for line in path.read_text().splitlines()[1:]]
    return found


def test_what_one_layer_refuses_is_stored_in_the_others(layered: Callable[..., RunOptions], tmp_path: Path) -> None:
    """And never acknowledged; what is not computed at all is listed in each recipe that lacks it."""

    def answer(record: Record, layer: int) -> float | NotEncoded | None:
        if record.length == 4:
            return NotEncoded("out of memory alone")
        return 1e6 if layer == 6 and record.length == 20 else None

    run(layered(input=write_fasta(tmp_path / "e.fasta", {"e": SEQUENCES["e"]}), layers=(2,)))
    with (tmp_path / "acks").open("wb") as acks:
        done = run(layered(answer, ack_fd=acks.fileno(), layers=(2, 3, 6)))
    assert (done.already, done.embedded, done.failed) == (0, 3, 2)
    counts = [(part.already, part.embedded, part.failed) for part in done.recipes]
    assert counts == [(1, 4, 0), (0, 4, 1), (0, 3, 2)]
    assert [part.failed_list is None for part in done.recipes] == [True, False, False]
    assert failed_lists(tmp_path / "c") == {"3": ["e"], "last": ["b", "e"]}
    acknowledged = {bytes.fromhex(line) for line in (tmp_path / "acks").read_text().splitlines()}
    assert acknowledged == {record_of("rna", name, SEQUENCES[name]).key for name in "acd"}
    again = run(layered(layers=(2, 3, 6)))
    assert [(part.already, part.embedded) for part in again.recipes] == [(5, 0), (4, 1), (3, 2)]
    assert (again.already, again.embedded, failed_lists(tmp_path / "c")) == (3, 2, {})


def test_a_partly_done_run_names_every_list(
    fresh_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(random_tensors(rnabert_shapes(), np.random.default_rng(1)), tmp_path / "w.safetensors")
    (tmp_path / "sitecustomize.py").write_text(
        "from crossllm.embed.encoders.language_model import LanguageModel\n"
        "from crossllm.embed.encoder import NotEncoded\n"
        "encode = LanguageModel.encode\n"
        "LanguageModel.encode = lambda self, records: (\n"
        "    (key, NotEncoded('cannot') if len(found[0]) == 2 else found) for key, found in encode(self, records))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG"})
    flags = ("--modality", "rna", "--input", "in.fasta", "--encoder", "rnabert", "--weights", "w.safetensors")
    done = fresh_program("embed", "run", *flags, "--cache", "c", "--layer", "1,6", "--quiet")
    assert done.returncode == 6
    said = "failed.tsv: lists 1 sequences that could not be stored; the rest is done"
    assert [line.rpartition("/")[2] for line in done.stderr.splitlines()] == [said, said]
    assert failed_lists(tmp_path / "c") == {"1": ["b"], "last": ["b"]}


def test_a_key_is_acknowledged_when_every_layer_has_it(
    layered: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers commit at different records, as one takes twice the bytes: so its segments close earlier."""
    cache, calls = tmp_path / "c", list[int]()
    run(layered(input=write_fasta(tmp_path / "b.fasta", {"b": SEQUENCES["b"]}), layers=(2,), dtype="float32"))

    def acknowledge(keys: Sequence[bytes]) -> None:
        for layer in ("2", None):
            assert not CacheReader(cache, reader_of(cache, layer).recipe).missing(keys)
        calls.append(len(keys))

    monkeypatch.setattr("crossllm.embed.run.run.Acknowledger", lambda _fd: lambda keys: acknowledge(keys))
    run(layered(ack_fd=1, segment_bytes=200, write_ahead=0))
    assert sum(calls) == len(SEQUENCES), "b too, which one of the layers had before"
    assert 0 not in calls
    commits = [len(list((recipe.folder(cache) / "commits").iterdir())) for recipe in list_recipes(cache, "rna")]
    assert len(set(commits)) == 2, "the layers did not commit in step"
    calls.clear()
    run(layered(ack_fd=1))
    assert calls == [], "nothing new, nothing more to say"


def test_what_a_layer_had_before_is_on_disk_when_a_key_is_acknowledged(
    layered: Callable[..., RunOptions], tmp_path: Path
) -> None:
    """Whoever committed it may have been killed before it was synced, and a key says that it is in every layer."""
    run(layered(layers=(2,)))
    synced = f"{reader_of(tmp_path / 'c', '2').recipe.folder(tmp_path / 'c')}/commits"
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    told: list[str] = []

    def look(_n: int, op: Op) -> None:
        with suppress(BlockingIOError):
            told.extend(["ack"] * len(os.read(reader, 1000).splitlines()))
        told.append(f"{op.kind} {op.path}")

    with installed(FaultyOs()) as shim:
        shim.on_op = look
        run(layered(ack_fd=writer, write_ahead=0))
    os.close(writer)
    os.close(reader)
    assert f"fsync dir {synced}" in told[: told.index("ack")]


def test_a_signal_commits_what_is_done_in_every_layer(layered: Callable[..., RunOptions], tmp_path: Path) -> None:
    def answer(record: Record, layer: int) -> None:
        if (record.id, layer) == ("b", 6):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated):
        run(layered(answer))
    assert [len(reader_of(tmp_path / "c", layer)) for layer in ("2", None)] == [2, 2]
    done = run(layered())
    assert (done.already, done.embedded) == (2, 3)


def test_many_writers_tell_of_each_key_once_and_last(rng: np.random.Generator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    keys, writers, told = [bytes([n % 256, n // 256]) for n in range(2000)], 4, list[bytes]()
    joint = JointAck(told.extend)
    for key in keys:
        joint.expect(key, writers)

    def commits() -> Iterator[list[bytes]]:
        for _ in range(writers - 1):
            order = [keys[n] for n in rng.permutation(len(keys))]
            yield from (order[n : n + 50] for n in range(0, len(order), 50))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(joint.committed, commits()))
        assert told == []
        list(pool.map(joint.committed, ([key] for key in keys)))
    assert sorted(told) == sorted(keys)


def test_what_others_commit_meanwhile_is_left_out_where_they_did(
    layered: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossllm.embed.run.storing.BATCH", 1)
    encode = Layered.encode
    asked: list[str] = []

    def others_step_in(self: Layered, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        monkeypatch.setattr(Layered, "encode", encode)
        for number, record in enumerate(records):
            asked.append(record.id)
            yield from encode(self, [record])
            if number == 0:
                run(layered(input=write_fasta(tmp_path / "c.fasta", {"c": SEQUENCES["c"]}), layers=(2,)))
                run(layered(input=write_fasta(tmp_path / "d.fasta", {"d": SEQUENCES["d"]}), layers=(6, 2)))

    monkeypatch.setattr(Layered, "encode", others_step_in)
    done = run(layered())
    assert asked == ["a", "b", "c", "e"]
    assert (done.embedded, done.already) == (4, 1)
    assert [(part.already, part.embedded) for part in done.recipes] == [(2, 3), (1, 4)]


def test_what_others_commit_meanwhile_is_on_disk_before_a_key_is_acknowledged(
    layered: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer 2 of c comes from another writer while the run is under way; c is acknowledged by the last layer alone."""
    monkeypatch.setattr("crossllm.embed.run.storing.BATCH", 1)
    encode, events = Layered.encode, list[str]()

    def others_step_in(self: Layered, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        monkeypatch.setattr(Layered, "encode", encode)
        for number, record in enumerate(records):
            yield from encode(self, [record])
            if number == 0:
                run(layered(input=write_fasta(tmp_path / "c.fasta", {"c": SEQUENCES["c"]}), layers=(2,)))
                events.append("theirs")

    sync = storing.sync_what_others_wrote

    def synced(cache_dir: Path, recipe: Recipe) -> None:
        events.append(f"sync {recipe.layer}")
        sync(cache_dir, recipe)

    monkeypatch.setattr("crossllm.embed.run.storing.sync_what_others_wrote", synced)
    monkeypatch.setattr(Layered, "encode", others_step_in)
    monkeypatch.setattr(
        "crossllm.embed.run.run.Acknowledger", lambda _fd: lambda keys: events.extend(["ack"] * len(keys))
    )
    run(layered(ack_fd=1))
    since = events[events.index("theirs") :]
    assert "sync 2" in since[: since.index("ack")]
    assert events.count("ack") == len(SEQUENCES)


def test_a_pass_in_which_one_layer_is_refused_is_not_nothing(
    layered: Callable[..., RunOptions],
) -> None:
    done = run(layered(lambda _record, layer: 1e6 if layer == 6 else None))
    assert (done.embedded, done.failed) == (0, len(SEQUENCES))
    words = _in_words(done, "rna")
    assert "nothing to embed" not in words
    assert f"{len(SEQUENCES)} new" in words


def test_the_bar_and_the_memory_are_those_of_one_pass(
    layered: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[int, list[int]]] = []
    shares: list[int] = []

    @contextmanager
    def bar(total: int, _what: str, _quiet: bool) -> Iterator[Callable[[int], object]]:
        bars.append((total, []))
        yield bars[-1][1].append

    def writer(of: object, ahead: int) -> BackgroundWriter:
        shares.append(ahead)
        return BackgroundWriter(of, ahead)  # type: ignore[arg-type]

    monkeypatch.setattr("crossllm.embed.run.storing.residue_progress", bar)
    monkeypatch.setattr("crossllm.embed.run.storing.BackgroundWriter", writer)
    done = run(layered(layers=(1, 3, 6), write_ahead=3000))
    ((total, seen),) = bars
    assert total == sum(seen) == done.residues == done.residues_embedded == sum(map(len, SEQUENCES.values()))
    assert shares == [1000] * 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Stop, lambda n: Fail(n, errno.ENOSPC, sticky=True)], ids=["killed", "disk full"])
def test_cut_off_anywhere_and_run_again_it_is_the_same_cache(
    options: RunOptions, tmp_path: Path, rng: np.random.Generator, fault: Callable[[int], Stop | Fail]
) -> None:
    """What was acknowledged is in every layer, whatever the kill cost; one sequence a batch, to compare bits."""
    options = dataclasses.replace(
        options, layers=(1, 4, 6), batch_tokens=1, segment_bytes=20_000, write_ahead=0
    )  # fmt: skip
    with installed(FaultyOs()) as shim:
        run(dataclasses.replace(options, cache_dir=tmp_path / "whole"))
    whole, operations = contents(tmp_path / "whole"), shim.count
    assert len(whole) == 3
    cut = 0
    for n in sorted({1, operations, *rng.integers(1, operations, 12).tolist()}):
        cache, acks = tmp_path / f"c{n}", tmp_path / f"acks{n}"
        with acks.open("wb") as told, installed(FaultyOs(fault(n))), suppress(Stopped, OSError):
            run(dataclasses.replace(options, cache_dir=cache, ack_fd=told.fileno()))
        acknowledged = {bytes.fromhex(line) for line in acks.read_text().splitlines()}
        held = [set(rows) for rows in contents(cache).values()] if cache.exists() else []
        assert not acknowledged or len(held) == 3
        assert all(acknowledged <= keys for keys in held), f"killed at operation {n}"
        cut += 0 < sum(map(len, held)) < 3 * len(SEQUENCES)
        done = run(dataclasses.replace(options, cache_dir=cache))
        assert done.embedded + done.already == len(SEQUENCES)
        assert contents(cache) == whole, f"killed at operation {n}"
        assert not verify(cache, data=True).damage
    assert cut, "one kill or more lay in the middle"


def test_a_dry_run_of_several_layers(options: RunOptions, program: Program, tmp_path: Path) -> None:
    half = write_fasta(tmp_path / "half.fasta", {name: SEQUENCES[name] for name in "bc"})
    run(dataclasses.replace(options, input=half, layers=(2,)))
    held = reader_of(tmp_path / "c", "2").recipe.folder_name
    plain = dataclasses.replace(options, long=None)
    alone = [dry_run(dataclasses.replace(plain, layers=layers, long="window")).bytes for layers in ((2,), (5,))]
    found = dry_run(dataclasses.replace(plain, layers=(2, 5)))
    assert [(part.layer, part.already) for part in found.recipes] == [("2", 2), ("5", 0)]
    assert found.recipes[0].recipe == held
    assert (found.already, found.pending, found.pending_residues) == (0, 5, sum(map(len, SEQUENCES.values())))
    assert found.bytes == sum(alone) - 100 * len(SEQUENCES), "the table of ids once"
    lines = in_lines(found, "rna").splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("encoder"))
    assert lines[at : at + 3] == [
        f"encoder     rnabert, 2 layers in one pass → {tmp_path / 'c'}",
        f"            layer 2: {held}, 2 already there",
        f"            layer 5: {found.recipes[1].recipe}, 0 already there",
    ]
    flags = ("--modality", "rna", "--input", "in.fasta", "--encoder", "rnabert", "--cache", "c", "--layer", "2,6")
    told = program("embed", "run", *flags, "--dry-run", "--json")
    assert told.returncode == 0, told.stderr
    known = json.loads(told.stdout)
    assert not known["weights_at_hand"]
    assert known["recipes"][0] == {"recipe": held, "layer": "2", "already": 2}, "by the only weights that it holds"
    assert known["recipes"][1]["layer"] is None
    empty = json.loads(program("embed", "run", *flags[:-3], "new", *flags[-2:], "--dry-run", "--json").stdout)
    assert empty["recipes"] == [{"recipe": None, "layer": n, "already": None} for n in ("2", None)]


def test_the_time_is_that_of_the_deepest_layer_to_be_computed(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed: list[tuple[str | None, int]] = []

    def of_layers(_options: RunOptions, recipe: Recipe, found: dict[int, int]) -> float:
        timed.append((recipe.layer, sum(length * count for length, count in found.items())))
        return 1.0

    monkeypatch.setattr("crossllm.embed.run.estimate._of_layers", of_layers)
    monkeypatch.setitem(__import__("crossllm.embed.run.estimate", fromlist=["A_MINUTE"]).A_MINUTE, "cpu", 1.0)
    dry_run(dataclasses.replace(options, layers=(5, 2)))
    dry_run(dataclasses.replace(options, layers=(5, 6, 2)))
    run(options)
    dry_run(dataclasses.replace(options, layers=(2, 6, 5)))
    tokens = 2 * 440 + sum(len(SEQUENCES[name]) for name in "bcde")
    assert timed == [("5", tokens), (None, tokens), ("5", tokens)], "of what lacks something; each sequence once"
    asked = dataclasses.replace(options, layers=(2, 6, 5), quiet=False)
    info = ENCODERS["rna", "rnabert"]
    announce(asked, info, make_plan(asked, resolve_recipes(asked, info), read_records(asked.input, "rna")), 5)
    said = capsys.readouterr().err
    assert re.match(r"note: 5 of 5 sequences to embed, 546 nucleotides, 2 layers in one pass, about ", said), said


@pytest.mark.slow
def test_too_little_space_for_all_layers_stops_before_anything_is_written(
    layered: Callable[..., RunOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shutil import disk_usage

    one = dry_run(layered(layers=(2,))).bytes
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk_usage("/")._replace(free=one + 100))
    with pytest.raises(OSError, match="nothing was written"):
        run(layered())
    assert not (tmp_path / "c").exists()
    assert run(layered(layers=(2,))).embedded == len(SEQUENCES)


def test_the_summary_names_every_layer(options: RunOptions, program: Program, tmp_path: Path) -> None:
    write_fasta(tmp_path / "more.fasta", SEQUENCES | {"f": "GGGG"})
    flags = ("embed", "run", "--modality", "rna", "--encoder", "rnabert", "--weights", "w.safetensors", "--quiet")
    more = ("--cache", "c", "--long", "window", "--input")
    first = program(*flags, *more, "in.fasta", "--layer", "6,2", "--json")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    counts = {"already": 0, "embedded": 5, "failed": 0, "failed_list": None, "copied": 0}
    names = [reader_of(tmp_path / "c", layer).recipe.folder_name for layer in (None, "2")]
    assert found["recipes"] == [{"recipe": n, "layer": k, **counts} for n, k in zip(names, (None, "2"), strict=True)]
    assert (found["embedded"], found["already"], found["failed"]) == (5, 0, 0)
    told = program(*flags, *more, "in.fasta", "--layer", "2,6").stdout
    assert told.endswith(f"nothing to embed, 5 are in c ({names[1]}, layer 2; {names[0]}, last layer, {WINDOW})\n"), (
        told
    )
    program(*flags, *more, "more.fasta", "--layer", "2")
    told = program(*flags, *more, "more.fasta", "--layer", "2,6,4").stdout
    new = reader_of(tmp_path / "c", "4").recipe.folder_name
    assert (
        f"embedded 6 → c ({names[1]}, layer 2, 0 new; {names[0]}, last layer, 1 new; {new}, layer 4, 6 new, {WINDOW}); "
        "550 nucleotides in "
    ) in told, told


def test_the_python_interface_refuses_what_the_command_does(options: RunOptions) -> None:
    for layers, said in (((2, 2), "names layer 2 twice"), ((2, -1), "layers 1 to 6"), ((0,), "layers 1 to 6")):
        with pytest.raises(InputError, match=said):
            run(dataclasses.replace(options, layers=layers))
