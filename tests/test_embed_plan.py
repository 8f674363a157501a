"""What a run says before it begins, and what it does with space, memory and encoders that fail."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import Program

from crossllm.cache import CacheReader, InputError, Record, choose_recipe
from crossllm.cache.console.messages import size_in_words
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import record_of
from crossllm.cache.records.record_list import RecordList
from crossllm.embed.encoder import EncoderInfo, NotEncoded, Outputs
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.encoders.windows import windows
from crossllm.embed.engine.transformer import Design, Transformer
from crossllm.embed.run import estimate as estimate_module
from crossllm.embed.run.dry_run import dry_run
from crossllm.embed.run.dry_run_lines import announce, in_lines, warn
from crossllm.embed.run.estimate import design_of, estimate, in_words, pieces, worth_timing
from crossllm.embed.run.plan import RunOptions, make_plan
from crossllm.embed.run.run import run

Answer = Callable[[Record], np.ndarray | NotEncoded]


class Fake:
    """An encoder that answers as it is told."""

    name, modality, dim = "fake", "rna", 2
    limit: int | None = None

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        for record in records:
            found = self._answer(record)
            yield record.key, found if isinstance(found, NotEncoded) else (found,)


def rows_of(record: Record) -> np.ndarray:
    return np.full((record.length, 2), record.length, np.float32)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Puts an encoder called fake into the table."""

    def put(answer: Answer) -> None:
        monkeypatch.setitem(ENCODERS, ("rna", "fake"), EncoderInfo("fake", "rna", 2, "none", lambda _: Fake(answer)))

    return put


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{i}\n{s}\n" for i, s in records.items()))
    return path


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_dry_run_counts_all_and_writes_nothing(program: Program, tmp_path: Path) -> None:
    write_fasta(tmp_path / "half.fasta", {"a": "ACGU", "b": "GG"})
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG", "c": "gg", "d": "CCCAU", "e": "AUG"})
    flags = ("embed", "run", "--modality", "rna", "--encoder", "profile", "--cache", "c", "--input")
    before = tree(tmp_path)
    first = program(*flags, "in.fasta", "--dry-run", "--json")
    assert (first.returncode, tree(tmp_path)) == (0, before), first.stderr
    found = json.loads(first.stdout)
    assert (found["records"], found["distinct"], found["residues"], found["already"]) == (5, 4, 14, 0)
    assert program(*flags, "half.fasta").returncode == 0
    before = tree(tmp_path)
    done = program(*flags, "in.fasta", "--dry-run", "--json")
    assert (done.returncode, tree(tmp_path)) == (0, before), done.stderr
    found = json.loads(done.stdout)
    assert (found["already"], found["pending"], found["pending_residues"], found["longest"]) == (2, 2, 8, 5)
    assert found["recipes"][0]["recipe"] == choose_recipe(tmp_path / "c", "rna").folder_name
    assert 8 * 57 * 2 < found["bytes"] < 100_000
    assert 0 < found["seconds"] < 60
    told = program(*flags, "in.fasta", "--dry-run")
    assert "5, 4 distinct sequences, 14 nucleotides; 2 already there" in told.stdout
    assert "2 sequences, 8 nucleotides, the longest 5" in told.stdout
    assert re.search(r"time +under a second on cpu, if the machine does nothing else$", told.stdout, re.M), told.stdout
    assert "the longest 5; 1 batch\n" in told.stdout
    several = program(*flags, "in.fasta", "--dry-run", "--batch-tokens", "3")
    assert "the longest 5; about 3 batches\n" in several.stdout
    program(*flags, "in.fasta")
    all_there = program(*flags, "in.fasta", "--dry-run").stdout
    assert re.search(r"to embed +nothing$", all_there, re.M), all_there
    assert re.search(r"time +nothing to embed$", all_there, re.M), all_there


@pytest.mark.slow
def test_a_dry_run_plans_without_weights(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKV" * 100, "b": "GAVLI" * 300})
    options = RunOptions("protein", fasta, tmp_path / "c", "esm2-8m")
    found = dry_run(options)
    assert (found.weights_at_hand, found.recipes, found.already, found.pending) == (
        False,
        ((None, None, None),),
        None,
        2,
    )
    assert (found.beyond_limit, found.limit, found.long) == (1, 1022, "error")
    assert found.bytes > 1800 * 320 * 2
    assert found.seconds is not None
    assert found.seconds > 0
    windowed = dry_run(RunOptions("protein", fasta, tmp_path / "c", "esm2-8m", long="window"))
    assert windowed.long == "window:1022:511"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.fasta"]


@pytest.mark.slow
def test_a_dry_run_without_weights_goes_by_the_only_recipe_held(real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights" / "rnabert" / "model.safetensors"
    if not weights.exists():
        weights = next((real_data / "weights" / "rnabert").glob("*.safetensors"))
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GGC"})
    run(RunOptions("rna", write_fasta(tmp_path / "half.fasta", {"a": "ACGU"}), tmp_path / "c", "rnabert", weights))
    held = choose_recipe(tmp_path / "c", "rna").folder_name
    found = dry_run(RunOptions("rna", fasta, tmp_path / "c", "rnabert"))
    assert (found.weights_at_hand, found.recipes, found.already, found.pending) == (False, ((held, None, 1),), 1, 1)
    at_hand = dry_run(RunOptions("rna", fasta, tmp_path / "c", "rnabert", weights))
    assert at_hand.already == 1
    assert in_lines(at_hand, "rna").splitlines()[-1] == f"weights     {weights}, digested but not opened"


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_a_device_that_is_not_here_keeps_the_plan(
    tmp_path: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan is asked for on the login node, the run goes to another machine."""
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKV"})
    found = dry_run(RunOptions("protein", fasta, tmp_path / "c", "esm2-8m", device=device))
    assert (found.pending, found.seconds) == (1, None)
    assert f"--device {device}" in found.not_estimated
    warn(found)
    assert capsys.readouterr().err.startswith(f"note: the time is not estimated: --device {device}: ")


OUT_OF_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", ["_of_layers", "_of_records"])
def test_out_of_memory_while_measuring_keeps_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, way: str
) -> None:
    def fails(*_: object) -> float:
        raise error

    monkeypatch.setattr(f"crossllm.embed.run.estimate.{way}", fails)
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKV"})
    found = dry_run(RunOptions("protein", fasta, tmp_path / "c", "esm2-8m" if way == "_of_layers" else "profile"))
    assert (found.pending, found.seconds) == (1, None)
    assert found.not_estimated.startswith("out of memory on cpu")
    warn(found)
    assert capsys.readouterr().err == f"note: the time is not estimated: {found.not_estimated}\n"


def test_another_error_while_measuring_is_our_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> float:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("crossllm.embed.run.estimate._of_layers", fails)
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKV"})
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        dry_run(RunOptions("protein", fasta, tmp_path / "c", "esm2-8m"))


LANGUAGE_MODELS = [(info.modality, info.name) for info in ENCODERS.values() if info.layers]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of the sequences that the layer is timed on: once each, the narrowest layer there is in its place."""
    seen: list[int] = []
    whole = estimate_module._random_layer

    def small(design: Design, compute: str, device: str) -> Transformer:
        layer = whole(design._replace(width=16, heads=2, inner=16), compute, device)
        rows = layer.rows

        def spy(ids: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
            seen.extend(lengths)
            return rows(ids, lengths)

        monkeypatch.setattr(layer, "rows", spy)
        return layer

    monkeypatch.setattr(estimate_module, "_random_layer", small)
    monkeypatch.setattr(estimate_module, "ENOUGH", 0.0)
    monkeypatch.setattr(estimate_module, "PATIENCE", 0.0)
    return seen


@pytest.mark.parametrize(("modality", "name"), LANGUAGE_MODELS)
def test_what_stops_the_run_is_left_out_of_the_estimate(
    tmp_path: Path, timed: list[int], modality: str, name: str
) -> None:
    """It was timed all the same, and where positions are learned the layer has none beyond the limit."""
    limit = ENCODERS[modality, name].limit
    assert limit is not None
    letter = "A" if modality == "rna" else "L"
    fasta = write_fasta(
        tmp_path / "in.fasta", {n: letter * k for n, k in zip("abc", (300, limit + 1, 3 * limit), strict=True)}
    )
    found = dry_run(RunOptions(modality, fasta, tmp_path / "c", name))
    assert (found.pending, found.beyond_limit, found.long) == (3, 2, "error")
    assert set(timed) == {300}
    assert re.search(
        r"time +\S.*, if the machine does nothing else, without what is too long$", in_lines(found, modality), re.M
    )
    alone = write_fasta(tmp_path / "long.fasta", {"b": letter * (limit + 1)})
    nothing = dry_run(RunOptions(modality, alone, tmp_path / "c", name))
    assert (nothing.seconds, nothing.not_estimated) == (None, "all that is to be embedded is too long")


@pytest.mark.parametrize(("modality", "name"), LANGUAGE_MODELS)
def test_the_timed_layer_is_never_asked_beyond_its_positions(
    tmp_path: Path, timed: list[int], modality: str, name: str
) -> None:
    """Even where a caller does not leave them out."""
    info = ENCODERS[modality, name]
    assert info.limit is not None
    options = RunOptions(modality, tmp_path / "in.fasta", tmp_path / "c", name)
    pending = RecordList.of([record_of(modality, "a", "G" * 9), record_of(modality, "b", "A" * 4 * info.limit)])
    assert (estimate(options, info, info.recipe(None), pending).seconds or 0) > 0
    assert max(timed) <= (2048 if info.rotary else info.limit + 2)


def test_every_language_model_has_the_design_that_the_table_says() -> None:
    models = [info for info in ENCODERS.values() if info.layers]
    assert len(models) >= 9
    for info in models:
        design, _ = design_of(info.recipe(None))
        assert (design.width, design.layers) == (info.dim, info.layers), info.name


@pytest.mark.slow
def test_an_estimate_grows_with_the_work_and_keeps_its_time(tmp_path: Path) -> None:
    import time

    info = ENCODERS["protein", "esm2-8m"]
    options = RunOptions("protein", tmp_path / "in.fasta", tmp_path / "c", "esm2-8m")
    begun = time.perf_counter()
    one = estimate(options, info, info.recipe(None), RecordList.of([record_of("protein", "a", "MKVLA" * 40)]))
    many = [record_of("protein", f"{n}", "MKVLA" * 40 + "A" * n) for n in range(200)]
    all_ = estimate(options, info, info.recipe(None), RecordList.of(many))
    assert one.seconds is not None
    assert all_.seconds is not None
    assert all_.seconds > 20 * one.seconds
    assert time.perf_counter() - begun < 60


@pytest.mark.parametrize("policy", ["whole", "window:10:4"])
def test_pieces_are_the_windows_of_all(policy: str, rng: np.random.Generator) -> None:
    lengths = rng.integers(1, 60, 100)
    expected = Counter(w.stop - w.start for length in lengths.tolist() for w in windows(length, policy))
    assert pieces(lengths, policy) == expected


def test_times_in_words() -> None:
    said = {
        0.2: "under a second", 40: "about 40 s", 720: "about 12 min", 11_400: "about 3 h 10 min",
        50 * 3600: "about 2 d 2 h",
    }  # fmt: skip
    assert {seconds: in_words(seconds) for seconds in said} == said


def test_bytes_in_words() -> None:
    said = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", 1 << 60: "1024.0 PiB"}
    assert {count: size_in_words(count) for count in said} == said


def test_too_little_space_stops_a_run_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4 by `crossllm.cache.console.runner`; with compression it may fit, and is only said."""
    from shutil import disk_usage

    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU" * 1000})
    full = disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(OSError, match=r"\d{6} bytes are needed and 1000 are free, nothing was written") as caught:
        run(RunOptions("rna", fasta, tmp_path / "c", "profile"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["in.fasta"]
    assert dry_run(RunOptions("rna", fasta, tmp_path / "c", "profile")).free_bytes == 1000
    assert run(RunOptions("rna", fasta, tmp_path / "c", "profile", compressor="zstd")).embedded == 1
    assert run(RunOptions("rna", fasta, tmp_path / "c", "profile")).already == 1, "nothing to write needs no space"


def test_a_run_without_space_ends_in_one_line(
    fresh_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\nshutil.disk_usage = lambda _: shutil._ntuple_diskusage(10, 9, 1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU"})
    flags = ("embed", "run", "--modality", "rna", "--input", "in.fasta", "--encoder", "profile", "--cache", "c")
    done = fresh_program(*flags)
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 1), done.stderr
    assert "bytes are needed and 1 are free" in done.stderr
    assert not (tmp_path / "c").exists()
    told = fresh_program(*flags, "--dry-run")
    assert told.returncode == 0
    assert "bytes are needed and 1 are free" in told.stderr


def test_a_run_says_its_plan_before_it_opens_weights(program: Program, tmp_path: Path) -> None:
    """Also where they turn out to be no weights; not with `--quiet`, nor where there is nothing to do."""
    write_fasta(tmp_path / "half.fasta", {"a": "ACGU"})
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG" * 600, "c": "CC", "d": "CC"})
    flags = ("embed", "run", "--modality", "rna", "--cache", "c", "--encoder")
    assert program(*flags, "profile", "--input", "half.fasta", "--quiet").stderr == ""
    done = program(*flags, "profile", "--input", "in.fasta")
    plan = r"note: 2 of 3 sequences to embed, 1,202 nucleotides, about \d+\.\d KiB to write, [\d.]+ \w+ free\n"
    assert re.fullmatch(plan, done.stderr), done.stderr
    assert program(*flags, "profile", "--input", "in.fasta").stderr == ""
    (tmp_path / "w.pth").write_bytes(b"no weights")
    done = program(*flags, "rnabert", "--weights", "w.pth", "--input", "half.fasta")
    first, second = done.stderr.splitlines()
    assert first.startswith("note: 1 of 1 sequences to embed, 4 nucleotides, about ")
    assert second.startswith("error: --weights w.pth: ")
    assert program(*flags, "rnabert", "--weights", "w.pth", "--input", "half.fasta", "--quiet").stderr == second + "\n"


@pytest.mark.slow
def test_a_run_says_its_time_where_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKVLA" * 40})
    options, info = RunOptions("protein", fasta, tmp_path / "c", "esm2-8m"), ENCODERS["protein", "esm2-8m"]
    plan = make_plan(options, (info.recipe(None),), read_records(fasta, "protein"))
    announce(options, info, plan, 1)
    assert "on cpu" not in capsys.readouterr().err
    monkeypatch.setitem(estimate_module.A_MINUTE, "cpu", 1e9)
    announce(options, info, plan, 1)
    assert re.search(r" free, under a second on cpu, if the machine does nothing else$", capsys.readouterr().err)
    monkeypatch.setattr(estimate_module, "_of_layers", lambda *_: 11_400)
    announce(options, info, plan, 1)
    assert " free, about 3 h 10 min on cpu, if " in capsys.readouterr().err
    announce(dataclasses.replace(options, quiet=True), info, plan, 1)
    assert capsys.readouterr().err == ""


def test_only_long_work_is_worth_timing() -> None:
    info, profile = ENCODERS["protein", "esm2-650m"], ENCODERS["protein", "profile"]
    few, many = np.array([200]), np.full(1000, 200)
    assert not worth_timing(info, info.recipe(None), few, "cpu")
    assert worth_timing(info, info.recipe(None), many, "cpu")
    assert not worth_timing(info, info.recipe(None), many, "cuda:0")
    assert worth_timing(info, info.recipe(None), np.repeat(many, 1000), "cuda:0")
    assert not worth_timing(profile, profile.recipe(None), np.repeat(many, 1000), "cpu")


@pytest.mark.parametrize("long", ["truncate", "window"])
def test_the_bar_ends_at_the_rows_that_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Callable[[Answer], None], long: Literal["truncate", "window"]
) -> None:
    info = EncoderInfo(
        "fake", "rna", 2, "none", lambda loading: Fake(lambda record: rows_of(record)[: loading.recipe.rows_of(999)]),
        limit=10, overlap=4,
    )  # fmt: skip
    monkeypatch.setitem(ENCODERS, ("rna", "fake"), info)
    bars: list[tuple[int, list[int]]] = []

    @contextmanager
    def bar(total: int, _what: str, _quiet: bool) -> Iterator[Callable[[int], object]]:
        bars.append((total, []))
        yield bars[-1][1].append

    monkeypatch.setattr("crossllm.embed.run.storing.residue_progress", bar)
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU" * 10, "b": "GG", "c": "C" * 11})
    done = run(RunOptions("rna", fasta, tmp_path / "c", "fake", long=long, quiet=True))
    ((total, seen),) = bars
    assert total == sum(seen) == done.residues_embedded == (22 if long == "truncate" else 53)


def test_what_an_encoder_cannot_do_is_listed_and_later_made_good(
    tmp_path: Path, fake: Callable[[Answer], None]
) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG", "c": "CCC", "d": "gg"})
    options = RunOptions("rna", fasta, tmp_path / "c", "fake")
    fake(lambda record: NotEncoded("out of memory alone") if record.length == 2 else rows_of(record))
    done = run(options)
    assert (done.embedded, done.failed, done.residues_embedded) == (2, 1, 7)
    (failed_list,) = [part.failed_list for part in done.recipes]
    assert failed_list is not None
    key = record_of("rna", "b", "GG").key.hex()
    assert Path(failed_list).read_text().splitlines() == [
        "id\tkey\tlength\treason", f"b\t{key}\t2\tout of memory alone", f"d\t{key}\t2\tout of memory alone",
    ]  # fmt: skip
    fake(rows_of)
    again = run(options)
    assert (again.embedded, again.already, again.failed, again.recipes[0].failed_list) == (1, 2, 0, None)
    assert not Path(failed_list).exists()
    assert not verify(tmp_path / "c", data=True).damage


def test_a_failure_is_exit_code_6(fresh_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from crossllm.embed.encoders.profile import ProfileEncoder\nfrom crossllm.embed.encoder import NotEncoded\n"
        "encode = ProfileEncoder.encode\n"
        "ProfileEncoder.encode = lambda self, records: (\n"
        "    (key, NotEncoded('cannot') if len(found[0]) == 2 else found) for key, found in encode(self, records))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG"})
    flags = ("--modality", "rna", "--input", "in.fasta", "--encoder", "profile", "--cache", "c")
    done = fresh_program("embed", "run", *flags)
    assert done.returncode == 6
    assert "failed.tsv: lists 1 sequences that could not be stored; the rest is done" in done.stderr
    assert "embedded 1" in done.stdout


@pytest.mark.parametrize("fault", ["dropped", "twice", "unknown"])
def test_an_encoder_that_loses_count_is_our_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Callable[[Answer], None], fault: str
) -> None:
    """Nothing is dropped in silence: every key that is handed out must come back, once."""

    def encode(_self: Fake, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        for number, record in enumerate(records):
            if fault != "dropped" or number:
                yield record.key, (rows_of(record),)
            if fault == "twice":
                yield record.key, (rows_of(record),)
            if fault == "unknown":
                yield bytes(32), (rows_of(record),)

    monkeypatch.setattr(Fake, "encode", encode)
    fake(rows_of)
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG"})
    with pytest.raises(RuntimeError, match="no answer on 1" if fault == "dropped" else "not asked for or has"):
        run(RunOptions("rna", fasta, tmp_path / "c", "fake"))


@pytest.mark.parametrize(("store", "compressor"), [("h5", None), ("zarr", "zstd"), ("zarr", None)])
def test_a_run_goes_on_in_the_caches_layout(tmp_path: Path, store: str, compressor: str | None) -> None:
    for n, (name, sequence) in enumerate({"a": "ACGU", "b": "GGG"}.items()):
        fasta = write_fasta(tmp_path / f"{name}.fasta", {name: sequence})
        asked = {"store": store, "compressor": compressor} if n == 0 else {}
        run(RunOptions("rna", fasta, tmp_path / "c", "profile", **asked))  # type: ignore[arg-type]
    reader = CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna"))
    assert [segment.stored_as for segment in reader.segments] == [(store, compressor)] * 2
    fasta = write_fasta(tmp_path / "c.fasta", {"c": "CCCC"})
    run(RunOptions("rna", fasta, tmp_path / "c", "profile", compressor="none"))
    reader = CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna"))
    assert ("zarr", None) in {segment.stored_as for segment in reader.segments}, "a flag goes before the cache"


def test_a_compressed_h5_is_refused_whatever_the_cache_holds(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "ACGU"})
    with pytest.raises(InputError, match="never compressed"):
        run(RunOptions("rna", fasta, tmp_path / "c", "profile", store="h5", compressor="zstd"))


def test_the_summary_says_what_is_not_usual(program: Program, tmp_path: Path) -> None:
    write_fasta(tmp_path / "in.fasta", {"a": "ACGU", "b": "GG"})
    done = program("embed", "run", "--modality", "rna", "--input", "in.fasta", "--encoder", "profile", "--cache", "c")
    assert re.search(
        r"embedded 2 → c \(profile-[0-9a-f]{16}\); 6 nucleotides in \d+\.\d s, \d+ a second$", done.stdout
    ), done.stdout


CHILD = """
import resource, sys
from collections import Counter
from pathlib import Path
import numpy as np
from crossllm.embed.encoder import EncoderInfo
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.run.run import RunOptions, run

class Fake:
    name, modality, dim, limit, notes = "fake", "rna", 2, None, Counter()

    def encode(self, records):
        for record in records:
            yield record.key, (np.full((record.length, 2), record.length, np.float32),)

ENCODERS["rna", "fake"] = EncoderInfo("fake", "rna", 2, "none", lambda _: Fake())
fasta, cache, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = run(RunOptions("rna", fasta, cache, "fake", segment_bytes=1 << 20, write_ahead=1 << 20, quiet=True))
assert done.embedded == count, done
status = Path("/proc/self/status")  # ru_maxrss begins with what the process that forked this one held
peak = status.read_text().partition("VmHWM:")[2].split()[0] if status.exists() else None
print(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_ten_times_the_records_take_little_more_memory(memory: Path) -> None:
    """Peak memory of whole runs of 20,000 and 200,000 records: where each were a `Record`, 450 bytes more of each."""
    peak = {}
    for count in (20_000, 200_000):
        fasta = memory / f"{count}.fasta"
        letters = np.array(list("ACGU"))[np.arange(count)[:, None] // 4 ** np.arange(12) % 4]
        fasta.write_text("".join(f">r{n}\n{''.join(row)}\n" for n, row in enumerate(letters)))
        command = [sys.executable, "-c", CHILD, str(fasta), str(memory / f"c{count}"), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        peak[count] = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    print({count: f"{size / 2**20:.0f} MiB" for count, size in peak.items()})
    assert peak[200_000] - peak[20_000] < 60 << 20


def test_the_estimate_of_a_profile_encodes_the_start_of_a_long_sequence_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossllm.embed.encoders.profile import ProfileEncoder

    asked: list[int] = []
    plain = ProfileEncoder.encode

    def spying(self: ProfileEncoder, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        listed = list(records)
        asked.extend(record.length for record in listed)
        return plain(self, listed)

    monkeypatch.setattr(ProfileEncoder, "encode", spying)
    write_fasta(tmp_path / "a.fasta", {"long": "ACGU" * 500_000, "short": "ACGU"})
    found = dry_run(RunOptions("rna", tmp_path / "a.fasta", tmp_path / "c", "profile"))
    assert found.seconds is not None
    assert max(asked) == estimate_module.LONGEST_TIMED
