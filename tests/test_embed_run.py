from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Program

from crossllm.cache import CacheReader, Conflict, Record, choose_recipe, record_of
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import CERTAIN
from crossllm.embed.encoder import Outputs
from crossllm.embed.encoders.profile import ProfileEncoder, columns
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.run.plan import RunOptions, default_cache
from crossllm.embed.run.run import run

SEQUENCES = {"rna": "GGAUCNACGUUUGCA", "protein": "MKVLAAGIXBUOWYHRKDE"}


def rows_of(modality: str, sequence: str) -> np.ndarray:
    record = record_of(modality, "x", sequence)
    ((_, (rows,)),) = ProfileEncoder(modality).encode([record])
    return rows


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_profile_has_one_row_a_residue_and_one_name_a_column(modality: str) -> None:
    names = columns(modality)
    assert len(set(names)) == len(names)
    for length in (1, 2, 3, 4, len(SEQUENCES[modality])):
        rows = rows_of(modality, SEQUENCES[modality][:length])
        assert rows.shape == (length, len(names))
        assert np.isfinite(rows).all()


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_profile_columns_equal_a_plain_loop(modality: str) -> None:
    """The vectorised columns against the same definitions letter by letter."""
    sequence = "".join(x for x in SEQUENCES[modality] if x in CERTAIN[modality])
    rows, names = rows_of(modality, sequence), columns(modality)
    for i, letter in enumerate(sequence):
        assert [rows[i, names.index(f"is {x}")] for x in CERTAIN[modality]] == [x == letter for x in CERTAIN[modality]]
    if modality == "rna":
        for i in range(len(sequence)):
            for shift in (-3, -1, 2):
                there = sequence[i + shift] if 0 <= i + shift < len(sequence) else ""
                assert rows[i, names.index(f"G at {shift:+d}")] == (there == "G")
            window = sequence[max(0, i - 10) : i + 11]
            assert rows[i, names.index("C in window±10")] == pytest.approx(window.count("C") / len(window), abs=1e-6)
        assert rows[0, names.index("stacking with next")] == pytest.approx(-3.26 / 3)  # GG/CC
    else:
        from crossllm.embed.encoders.scales import AMINO_SCALES

        charge = AMINO_SCALES["charge"]
        for i, letter in enumerate(sequence):
            assert rows[i, names.index("charge")] == pytest.approx(charge[letter])
            window = sequence[max(0, i - 10) : i + 11]
            mean = sum(charge[x] for x in window) / len(window)
            assert rows[i, names.index("charge in window±10")] == pytest.approx(mean, abs=1e-6)


def test_tables_are_symmetric_where_the_physics_is() -> None:
    from crossllm.embed.encoders.scales import BLOSUM62, STACKING

    matrix = np.array([BLOSUM62[x] for x in CERTAIN["protein"]])
    assert (matrix == matrix.T).all()
    complement = [3, 2, 1, 0]  # A–U, C–G
    assert np.allclose(STACKING, STACKING[np.ix_(complement, complement)].T), "a stack read from its other strand"


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_an_ambiguous_letter_is_the_mean_of_what_it_may_be(modality: str) -> None:
    letter, members = {"rna": ("R", "AG"), "protein": ("B", "DN")}[modality]
    names = columns(modality)
    rows = rows_of(modality, letter)[0]
    assert rows[names.index("is ambiguous")] == 1
    for member in members:
        assert rows[names.index(f"is {member}")] == 0.5


def test_profile_is_bit_equal_alone_and_batched() -> None:
    records = [record_of("rna", s, s) for s in ("ACGU", "GG", "ACGUACGUUUGCA" * 5)]
    together = dict(ProfileEncoder("rna").encode(records))
    for record in records:
        assert together[record.key][0].tobytes() == rows_of("rna", record.sequence).tobytes()


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{i}\n{s}\n" for i, s in records.items()))
    return path


def test_a_run_embeds_each_distinct_sequence_once_and_a_second_nothing(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fasta", {"x": "ACGT", "y": "acgu", "z": "GG"})
    options = RunOptions("rna", fasta, tmp_path / "c", "profile")
    first, second = run(options), run(options)
    assert (first.records, first.distinct, first.embedded, first.already) == (3, 2, 2, 0)
    assert (second.embedded, second.already) == (0, 2)
    reader = CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna", None))
    table = read_table(tmp_path / "c", "rna")
    assert table["x"].key == table["y"].key
    assert reader[table["x"].key].tobytes() == rows_of("rna", "ACGU").astype(np.float16).tobytes()


def test_only_what_is_missing_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(RunOptions("rna", write_fasta(tmp_path / "a.fasta", {"x": "ACGU"}), tmp_path / "c", "profile"))
    seen: list[str] = []
    encode = ProfileEncoder.encode

    def spy(self: ProfileEncoder, records: Iterable[Record]) -> object:
        records = list(records)
        seen.extend(r.sequence for r in records)
        return encode(self, records)

    monkeypatch.setattr(ProfileEncoder, "encode", spy)
    run(RunOptions("rna", write_fasta(tmp_path / "b.fasta", {"v": "ACGU", "w": "CC"}), tmp_path / "c", "profile"))
    assert seen == ["CC"]


def test_a_run_follows_the_caches_recipe_or_says_what_differs(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fasta", {"x": "ACGU"})
    run(RunOptions("rna", fasta, tmp_path / "c", "profile", dtype="float32"))
    assert run(RunOptions("rna", fasta, tmp_path / "c", "profile")).already == 1
    with pytest.raises(Conflict, match="dtype: float16, not float32"):
        run(RunOptions("rna", fasta, tmp_path / "c", "profile", dtype="float16"))
    assert run(RunOptions("rna", fasta, tmp_path / "c", "profile", dtype="float16", new_recipe=True)).embedded == 1


def test_refused_rows_are_listed_and_the_rest_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = ProfileEncoder.encode

    def broken(self: ProfileEncoder, records: list[Record]) -> object:
        for key, (rows,) in encode(self, records):
            yield key, (rows if len(rows) != 2 else rows * np.inf,)

    monkeypatch.setattr(ProfileEncoder, "encode", broken)
    fasta = write_fasta(tmp_path / "a.fasta", {"x": "ACGU", "bad": "GG", "worse": "gg"})
    options = RunOptions("rna", fasta, tmp_path / "c", "profile")
    with np.errstate(invalid="ignore"):
        summary = run(options)
    assert (summary.embedded, summary.failed) == (1, 1)
    (part,) = summary.recipes
    assert part.failed_list is not None
    listed = Path(part.failed_list).read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["id", "bad", "worse"]
    assert len(CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna", None))) == 1
    monkeypatch.setattr(ProfileEncoder, "encode", encode)
    assert run(options).embedded == 1
    assert not Path(part.failed_list).exists(), "the list of a run that another has made good is gone"


def test_a_run_leaves_out_what_another_commits_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossllm.embed.run.storing.BATCH", 1)
    fasta = write_fasta(tmp_path / "a.fasta", {"x": "ACGU", "y": "GG", "z": "CC"})
    encode = ProfileEncoder.encode

    def other_writer_steps_in(self: ProfileEncoder, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        monkeypatch.setattr(ProfileEncoder, "encode", encode)
        for number, found in enumerate(encode(self, records)):
            yield found
            if number == 0:
                run(RunOptions("rna", write_fasta(tmp_path / "b.fasta", {"z": "CC"}), tmp_path / "c", "profile"))

    monkeypatch.setattr(ProfileEncoder, "encode", other_writer_steps_in)
    summary = run(RunOptions("rna", fasta, tmp_path / "c", "profile"))
    assert (summary.embedded, summary.already) == (2, 1)


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_the_table_of_encoders_tells_the_true_width(modality: str) -> None:
    assert ENCODERS[modality, "profile"].dim == ProfileEncoder(modality).dim


def test_default_cache_is_the_dataset_or_named_after_the_input(tmp_path: Path) -> None:
    assert default_cache(Path("some/where/seqs.fa.gz")) == Path("cache/seqs")
    (tmp_path / "dataset.toml").touch()
    assert default_cache(tmp_path / "rna.fasta") == tmp_path


@pytest.mark.parametrize(
    ("modality", "says"),
    [
        ("rna", ("rinalmo-giga, the default for rna, needs its weights", "--weights PATH", "embed pull rinalmo-giga")),
        (
            "molecule",
            ("molebert, the default for molecule, needs its weights", "--weights PATH", "embed pull molebert"),
        ),
    ],
)
def test_a_default_encoder_without_weights_names_the_ways_on(
    modality: str, says: tuple[str, ...], program: Program, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text(">x\nACGU\n" if modality == "rna" else "x\tCCO\n")
    done = program("embed", "run", "--modality", modality, "--input", "in.txt")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(part in done.stderr for part in (*says, "--encoder profile")), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]


def test_embed_run_makes_a_cache_in_an_empty_folder_and_tells_as_json(program: Program, tmp_path: Path) -> None:
    write_fasta(tmp_path / "seqs.fasta", {"x": "ACGU", "y": "GG"})
    done = program("embed", "run", "--modality", "rna", "--input", "seqs.fasta", "--encoder", "profile", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["embedded"] == 2
    shown = program("crossllm", "cache", "info", "--cache", "cache/seqs", "--json")
    (recipe,) = json.loads(shown.stdout)["recipes"]
    expected = {
        "modality": "rna",
        "encoder": "profile",
        "sequences": 2,
        "residues": 6,
        "segments": 1,
        "dtype": "float16",
    }
    assert {name: recipe[name] for name in expected} == expected
    further = {"digest", "bytes", "compute", "layer", "long", "options", "weights"}
    assert recipe.keys() == expected.keys() | further


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_commits_what_is_done_and_the_next_run_continues(tmp_path: Path, number: int, code: int) -> None:
    fasta = write_fasta(tmp_path / "long.fasta", {f"x{n}": "ACGU" * (5000 + n) for n in range(150)})
    command = [sys.executable, "-c", "from crossllm.embed.cli import main; main()", "run", "--modality", "rna",
               "--encoder", "profile", "--input", str(fasta), "--cache", str(tmp_path / "c"), "--quiet"]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "c").glob("embeddings/rna/*/segments/*/rows/c/0/0")):
        assert child.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == code, stderr
    assert len(stderr.splitlines()) == 1
    assert not verify(tmp_path / "c", data=True).damage
    kept = len(CacheReader(tmp_path / "c", choose_recipe(tmp_path / "c", "rna", None)))
    assert kept >= 1, "the record being written was finished and committed"
    summary = run(RunOptions("rna", fasta, tmp_path / "c", "profile", quiet=True))
    assert (summary.already, summary.already + summary.embedded) == (kept, 150)
