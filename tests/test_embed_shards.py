"""Job arrays: which shard a process takes, how shards are cut, and that all of them together are one run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Program

from crossllm.cache import CacheReader, choose_recipe, key_of, record_of
from crossllm.cache.errors import InputError
from crossllm.cache.maintenance.merge import merge
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record_list import Distinct
from crossllm.cache.records.shards import Shard, by_key, numbers, of_shard
from crossllm.embed.run.array_job import asked_shard
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run
from crossllm.embed.run.shard_status import StatusOptions, shard_status
from crossllm.embed.run.storing import FAILED_COLUMNS

SLURM = "SLURM_ARRAY_TASK_"


def slurm(number: int, count: int, first: int, last: int | None, step: int = 1) -> dict[str, str]:
    found = {"ID": number, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {SLURM + name: str(value) for name, value in found.items() if value is not None}


def write_fasta(path: Path, sequences: dict[str, str]) -> Path:
    path.write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in sequences.items()))
    return path


def drawn(rng: np.random.Generator, count: int, longest: int = 60) -> dict[str, str]:
    return {f"r{n}": "".join(rng.choice([*"ACGU"], rng.integers(1, longest))) for n in range(count)}


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ((2, 5, None), {}, Shard(2, 5)),
        ((2, 5, None), slurm(0, 9, 0, 8), Shard(2, 5)),
        ((None, None, None), {}, None),
        ((None, 1, None), slurm(3, 9, 0, 8), None),
        ((None, None, None), slurm(0, 1, 0, 0), None),
        ((None, None, None), slurm(4, 10, 0, 9), Shard(4, 10)),
        ((None, None, None), slurm(4, 10, 1, 10), Shard(3, 10)),
        ((None, None, None), slurm(4, 10, 1, None), Shard(3, 10)),
        ((None, None, None), slurm(40, 10, 0, 90, 10), Shard(4, 10)),
        ((None, None, None), slurm(40, 10, 10, 100, 10), Shard(3, 10)),
        ((None, 10, None), slurm(4, 10, 1, 10), Shard(3, 10)),
        ((None, 10, 0), slurm(7, 2, 3, 7), Shard(7, 10)),
        ((None, 10, 1), slurm(7, 2, 3, 7, 4), Shard(6, 10)),
        ((None, None, None), {"LSB_JOBINDEX": "10", "LSB_JOBINDEX_END": "10"}, Shard(9, 10)),
        ((None, None, None), {"LSB_JOBINDEX": "5", "LSB_JOBINDEX_END": "9", "LSB_JOBINDEX_STEP": "2"}, Shard(2, 5)),
        ((None, 20, None), {"LSB_JOBINDEX": "10", "LSB_JOBINDEX_END": "10"}, Shard(9, 20)),
        ((None, None, None), {"LSB_JOBINDEX": "0", "LSB_JOBINDEX_END": "0"}, None),
        ((None, 10, None), {"PBS_ARRAY_INDEX": "0"}, Shard(0, 10)),
        ((None, 10, 1), {"PBS_ARRAY_INDEX": "10"}, Shard(9, 10)),
        ((None, None, None), {"PBS_ARRAY_INDEX": "3"}, None),
    ],
)
def test_the_shard_of_flags_and_variables(
    flags: tuple[int | None, int | None, int | None],
    variables: dict[str, str],
    expected: Shard | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert asked_shard(*flags, variables) == expected
    said = capsys.readouterr().err
    if expected is not None and flags[0] is None:
        assert f"shard {expected.number} of {expected.total}" in said
        assert all(f"{name}={value}" in said for name, value in variables.items())


@pytest.mark.parametrize(
    ("flags", "variables", "says"),
    [
        ((2, None, None), {}, "Add --num-shards"),
        ((5, 5, None), {}, "0 to 4 are expected"),
        ((1, 5, 0), {}, "--shard-index begins at 0"),
        ((None, 5, None), {}, "Add --shard-index"),
        ((None, None, 1), {}, "Add --shard-index"),
        ((None, None, None), slurm(3, 2, 3, 7), "--num-shards N, of the whole array, and --first-index 0 or 1"),
        ((None, None, None), slurm(7, 2, 3, None), "--first-index 0 or 1"),
        ((None, None, None), slurm(7, 2, 3, 7, 4), "--first-index 0 or 1"),
        ((None, None, None), slurm(1, 3, 1, 7), "is no whole array"),
        ((None, 10, None), slurm(7, 2, 3, 7), "--first-index 0 or 1"),
        ((None, 10, None), slurm(1, 2, 0, 1), "is an array of 2, not of 10"),
        ((None, None, 0), slurm(7, 2, 3, 7), "Add --num-shards"),
        ((None, 5, 0), slurm(7, 2, 3, 7), "shard 7 of 5, 0 to 4 are expected"),
        ((None, 5, 1), slurm(0, 5, 0, 4), "shard -1 of 5"),
        ((None, None, None), {SLURM + "ID": "3"}, "is no whole array"),
        ((None, None, None), {SLURM + "ID": "three"}, "a number of up to nine digits"),
        ((None, 3, None), {"PBS_ARRAY_INDEX": "3"}, "shard 3 of 3"),
        ((None, None, 1), {"PBS_ARRAY_INDEX": "3"}, "add --num-shards"),
        ((None, None, None), {"LSB_JOBINDEX": "2"}, "--num-shards N"),
    ],
)
def test_what_cannot_be_told_is_asked_for(
    flags: tuple[int | None, int | None, int | None], variables: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError) as error:
        asked_shard(*flags, variables)
    assert says in str(error.value)


def test_an_empty_variable_is_none() -> None:
    with pytest.raises(InputError) as error:
        asked_shard(None, None, None, slurm(1, 3, 0, None) | {SLURM + "MIN": ""})
    assert str(error.value).startswith(f"{SLURM}ID=1, {SLURM}COUNT=3, {SLURM}STEP=1: is no whole array")


def test_every_sequence_is_in_one_shard_and_shards_are_balanced(rng: np.random.Generator) -> None:
    records = [record_of("rna", id_, sequence) for id_, sequence in drawn(rng, 500, 300).items()]
    distinct = Distinct(records)
    longest, residues = int(distinct.lengths.max()), int(distinct.lengths.sum())
    for count in (1, 2, 7, 100, 1000):
        found = numbers(distinct, count)
        assert found.min() >= 0
        assert found.max() < count
        held = np.bincount(found, distinct.lengths, minlength=count)
        assert (np.abs(held - residues / count) <= longest).all()
        assert (np.diff(found[by_key(distinct.digests)]) >= 0).all(), "a shard is a run of keys"


def test_the_cut_is_the_same_for_another_order_and_other_ids(tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = drawn(rng, 300)
    shuffled = {f"z{n}": sequences[f"r{n}"].lower() for n in rng.permutation(len(sequences)).tolist()}
    twice = shuffled | {f"again{n}": sequences[f"r{n}"].replace("U", "T") for n in range(0, 300, 3)}
    files = [write_fasta(tmp_path / f"{n}.fasta", found) for n, found in enumerate((sequences, shuffled, twice))]
    for number in range(5):
        parts = [of_shard(read_records(file, "rna"), Shard(number, 5)) for file in files]
        keys = [{bytes(key) for key in part.distinct()} for part in parts]
        assert keys[0] == keys[1] == keys[2]
        ids = {record.id for record in parts[2].records}
        assert ids == {
            id_ for id_, sequence in twice.items() if key_of("rna", sequence.upper().replace("T", "U")) in keys[0]
        }


def test_equal_beginnings_of_keys_are_cut_by_what_follows(rng: np.random.Generator) -> None:
    digests = rng.integers(0, 256, (40, 32), np.uint8)
    digests[:, :8] = digests[0, :8]
    order = by_key(digests)
    assert [digests[n].tobytes() for n in order] == sorted(map(bytes, digests))


def rows(cache_dir: Path) -> dict[bytes, bytes]:
    reader = CacheReader(cache_dir, choose_recipe(cache_dir, "rna", None))
    return {key: reader[key].tobytes() for key in reader}


def test_shards_in_one_cache_and_in_several_that_are_merged_are_one_run(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    fasta = write_fasta(tmp_path / "a.fasta", drawn(rng, 60) | {"twice": "ACGU", "again": "ACGU"})
    run(RunOptions("rna", fasta, tmp_path / "whole", "profile", quiet=True))
    done = [
        run(RunOptions("rna", fasta, tmp_path / folder, "profile", shard=Shard(n, 3), quiet=True))
        for n in range(3)
        for folder in ("one", f"part{n}")
    ]
    assert {(part.shard_index, part.num_shards) for part in done} == {(0, 3), (1, 3), (2, 3)}
    merge(tmp_path / "merged", [tmp_path / f"part{n}" for n in range(3)])
    for folder in ("one", "merged"):
        assert rows(tmp_path / folder) == rows(tmp_path / "whole")
        assert dict(read_table(tmp_path / folder, "rna")) == dict(read_table(tmp_path / "whole", "rna"))
        states = {shard.state for shard in shard_status(StatusOptions(fasta, 3, tmp_path / folder)).shards}
        assert states == {"complete"}
    assert sum(part.embedded for part in done) == 2 * len(rows(tmp_path / "whole"))


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fasta", {"x": "ACGU"})
    done = [run(RunOptions("rna", fasta, tmp_path / "c", "profile", shard=Shard(n, 4))) for n in range(4)]
    assert sorted(part.embedded for part in done) == [0, 0, 0, 1]
    assert {part.state for part in shard_status(StatusOptions(fasta, 4, tmp_path / "c")).shards} == {"complete"}


def test_a_file_that_grew_embeds_the_new_ones_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = drawn(rng, 40)
    first = dict([*sequences.items()][:25])
    for count in (1, 3):
        cache = tmp_path / f"c{count}"
        shards = [None] if count == 1 else [Shard(n, count) for n in range(count)]
        for part, found in enumerate((first, sequences)):
            fasta = write_fasta(tmp_path / f"{part}.fasta", found)
            made = [run(RunOptions("rna", fasta, cache, "profile", shard=shard, quiet=True)) for shard in shards]
            assert sum(one.embedded for one in made) == len({*found.values()} - ({*first.values()} if part else set()))
        run(RunOptions("rna", fasta, tmp_path / f"whole{count}", "profile", quiet=True))
        assert rows(cache) == rows(tmp_path / f"whole{count}")


def test_status_tells_states_and_the_array_of_the_rest(
    tmp_path: Path, rng: np.random.Generator, program: Program
) -> None:
    fasta = write_fasta(tmp_path / "a.fasta", drawn(rng, 80))
    records = read_records(fasta, "rna")
    cache, distinct = tmp_path / "c", records.distinct()
    asked = ("crossllm", "cache", "status", "-i", "a.fasta", "-c", "c", "--num-shards", 5)
    assert "say by --modality" in program(*asked).stderr
    said = program(*asked, "--modality", "rna").stdout
    assert "no rows of rna yet" in said
    assert "--array=0-4," in said
    for n in (0, 4):
        run(RunOptions("rna", fasta, cache, "profile", shard=Shard(n, 5), quiet=True))
    some = [r for r in records.records if numbers(distinct, 5)[distinct.find(r.key)] == 1][:2]
    few = write_fasta(tmp_path / "few.fasta", {r.id: r.sequence for r in some})
    run(RunOptions("rna", few, cache, "profile", quiet=True))
    folder = choose_recipe(cache, "rna", None).folder(cache)
    lost = list(of_shard(records, Shard(3, 5)).records)
    lines = [FAILED_COLUMNS, *((r.id, r.key.hex(), str(r.length), "no memory") for r in [*lost, some[0]])]
    (folder / "failed.3-of-5.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    found = shard_status(StatusOptions(fasta, 5, cache))
    assert [shard.state for shard in found.shards] == ["complete", "partial", "not begun", "failed", "complete"]
    assert found.shards[3].failed == found.shards[3].missing == len({r.key for r in lost})
    assert sum(shard.sequences for shard in found.shards) == len(distinct)
    assert sum(shard.residues for shard in found.shards) == int(distinct.lengths.sum())
    said = program(*asked, "--first-index", 1).stdout
    assert "the rest: --array=2-3, with `embed run … --num-shards 5 --first-index 1`" in said
    assert "failed.3-of-5.tsv" in said
    told = json.loads(program(*asked, "--json").stdout)
    assert told["rest"] == "1-2"
    assert [shard["state"] for shard in told["shards"]] == [shard.state for shard in found.shards]


def test_the_list_of_what_failed_is_a_shards_own(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fasta", {"x": "ACGU"})
    run(RunOptions("rna", fasta, tmp_path / "c", "profile", quiet=True))
    folder = choose_recipe(tmp_path / "c", "rna", None).folder(tmp_path / "c")
    names = ["failed.tsv", "failed.0-of-2.tsv", "failed.1-of-2.tsv"]
    for name in names:
        (folder / name).write_text("\t".join(FAILED_COLUMNS) + "\n")
    run(RunOptions("rna", fasta, tmp_path / "c", "profile", shard=Shard(1, 2), quiet=True))
    assert [name for name in names if (folder / name).exists()] == names[:2]


COMMAND = "from crossllm.pipeline.main import embed; embed()"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_shard_that_is_cut_off_and_started_again(tmp_path: Path, number: int, code: int) -> None:
    """Of three in one cache the second is stopped in the middle; what it had committed is not done again."""
    fasta = write_fasta(tmp_path / "long.fasta", {f"x{n}": "ACGU" * (5000 + n) for n in range(90)})
    run(RunOptions("rna", fasta, tmp_path / "whole", "profile", quiet=True))
    command = [sys.executable, "-c", COMMAND, "run", "--modality", "rna", "--encoder", "profile", "--input", str(fasta),
               "--cache", str(tmp_path / "c"), "--quiet", "--segment-bytes", "4MiB", "--num-shards", "3"]  # fmt: skip
    for n in (0, 2):
        subprocess.run([*command, "--shard-index", str(n)], check=True, timeout=120, capture_output=True)
    commits = len([*(tmp_path / "c").glob("embeddings/rna/*/commits/*.json")])
    child = subprocess.Popen([*command, "--shard-index", "1"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len([*(tmp_path / "c").glob("embeddings/rna/*/commits/*.json")]) <= commits:
        assert child.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == code, stderr
    status = shard_status(StatusOptions(fasta, 3, tmp_path / "c"))
    assert [shard.state for shard in status.shards] == ["complete", "partial", "complete"]
    assert status.rest == [1]
    again = run(RunOptions("rna", fasta, tmp_path / "c", "profile", shard=Shard(1, 3), quiet=True))
    assert again.embedded == status.shards[1].missing < again.distinct
    assert rows(tmp_path / "c") == rows(tmp_path / "whole")
    assert shard_status(StatusOptions(fasta, 3, tmp_path / "c")).rest == []
