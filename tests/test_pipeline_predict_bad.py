"""Bad uses of `crossllm predict`: the exit code, one line that says what to do, and nothing under the final name."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_pairs import New, new_pairs
from safetensors.numpy import save_file

from crossllm.cache.console import runner
from crossllm.pipeline.cli import crossllm
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use import output

pytestmark = pytest.mark.slow


@pytest.fixture
def new(trained: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> New:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")  # the command would set it for good
    return new_pairs(trained.cache_dir, tmp_path / "new")


Ran = tuple[int, list[str]]


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Exit code and error lines of a command in this process."""

    def run(words: list[object]) -> Ran:
        capsys.readouterr()
        code = runner._run(crossllm, [*map(str, words)])
        said = capsys.readouterr().err.splitlines()
        return code, [line for line in said if line.startswith("error: ")]

    return run


def _without(words: list[object], flag: str) -> list[object]:
    at = words.index(flag)
    return words[:at] + words[at + 2 :]


def _swapped(new: New) -> list[object]:
    words = _without(_without(new.command("out.tsv"), "--a"), "--b")
    return [*words, "--a", f"protein={new.folder / 'protein.fasta'}", "--b", f"rna={new.folder / 'rna.fasta'}"]


def _molecule(new: New) -> list[object]:
    return [*_without(new.command("out.tsv"), "--b"), "--b", f"molecule={new.folder / 'protein.fasta'}"]


def _id_twice(new: New) -> list[object]:
    fasta = new.folder / "rna.fasta"
    fasta.write_text(fasta.read_text() + ">rna0000\nGGGGGGGGGG\n")
    return new.command("out.tsv")


def _unreadable_checkpoint(new: New) -> list[object]:
    path = new.run / "checkpoints" / "fold-1.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    return new.command("out.tsv")


def _missing_checkpoint(new: New) -> list[object]:
    (new.run / "checkpoints" / "fold-1.json").unlink()
    return new.command("out.tsv")


def _unfinished(new: New) -> list[object]:
    (new.run / "metrics.json").unlink()
    return new.command("out.tsv")


def _no_run(new: New) -> list[object]:
    return ["predict", new.cache, *new.command("out.tsv")[2:]]


def _pairs(new: New, text: str) -> list[object]:
    (new.folder / "pairs.tsv").write_text(text)
    return new.command("out.tsv")


def _unknown(new: New) -> list[object]:
    return _pairs(new, "a_id\tb_id\nrna0001\tprotein0001\nRNA0001\tprotein0001\n")


def _exists(new: New) -> list[object]:
    Path("out.tsv").write_text("mine\n")
    return new.command("out.tsv")


def _other_parts(new: New) -> list[object]:
    parts = output.parts_folder(Path("out.tsv"))
    parts.mkdir()
    (parts / "plan.json").write_text(json.dumps({"digest": "0" * 64}))
    return new.command("out.tsv", "--resume")


def _unfinished_parts(new: New) -> list[object]:
    return _other_parts(new)[:-1]


def _folder_as_out(new: New) -> list[object]:
    Path("out.tsv").mkdir()
    return new.command("out.tsv")


def _file_as_folder(new: New) -> list[object]:
    Path("file").write_text("")
    return new.command("file/out.tsv")


def _recipe_gone(new: New) -> list[object]:
    shutil.rmtree(new.cache / "embeddings" / "rna")
    return new.command("out.tsv")


def _recipe_differs(new: New) -> list[object]:
    for path in (new.run / "config.toml",):
        text = path.read_text()
        digest = next(line for line in text.splitlines() if line.startswith("a = "))
        path.write_text(text.replace(digest, f'a = "{"5" * 64}"'))
    return new.command("out.tsv")


def _elsewhere(new: New) -> list[object]:
    moved = shutil.copytree(new.run, "moved")
    return ["predict", moved, *new.command("out.tsv")[2:]]


def _other_data(new: New) -> list[object]:
    return new.command("out.tsv", "--data", new.folder)


def _weights_for_none(new: New) -> list[object]:
    save_file({}, "weights.safetensors")
    return new.command("out.tsv", "--weights-a", "weights.safetensors")


def _not_utf8(new: New) -> list[object]:
    (new.folder / "pairs.tsv").write_bytes(b"a_id\tb_id\nrna\xff\tprotein0001\n")
    return new.command("out.tsv")


BAD: dict[str, tuple[Callable[[New], list[object]], int, str]] = {
    "sides swapped": (_swapped, 2, "side a of this run is rna, not protein; give --a rna=FILE; --b protein=FILE"),
    "another modality": (_molecule, 2, "side b of this run is protein, not molecule"),
    "an unknown modality": (lambda n: [*_without(n.command("out.tsv"), "--a"), "--a", "dna=x"], 2, "is not known"),
    "no MODALITY=FILE": (lambda n: [*_without(n.command("out.tsv"), "--a"), "--a", "x.fasta"], 2, "not MODALITY=FILE"),
    "no such file": (lambda n: [*_without(n.command("out.tsv"), "--a"), "--a", "rna=gone.fasta"], 2, "no such file"),
    "an id twice": (_id_twice, 2, "rna0000"),
    "an unreadable checkpoint": (_unreadable_checkpoint, 3, "not the weights of this run"),
    "a checkpoint that is gone": (_missing_checkpoint, 3, "a finished run has it"),
    "an unfinished run": (_unfinished, 2, "is not finished; go on with `train --resume`"),
    "no run": (_no_run, 2, "holds no run"),
    "an unknown id": (_unknown, 2, "'RNA0001' stands neither in a file that was given nor in the run's dataset"),
    "no pairs": (lambda n: _pairs(n, "a_id\tb_id\n"), 2, "holds no pair"),
    "an empty file": (lambda n: _pairs(n, ""), 2, "is empty"),
    "no such column": (lambda n: _pairs(n, "rna\tprotein\nrna0001\tprotein0001\n"), 2, "no column a_id, b_id"),
    "a column twice": (lambda n: _pairs(n, "a_id\tb_id\tx\tx\nrna0001\tprotein0001\t\t\n"), 2, "stands twice"),
    "a column that is added": (
        lambda n: _pairs(n, "a_id\tb_id\tscore\nrna0001\tprotein0001\t1\n"), 2, "has a column 'score'"
    ),
    "an open quote": (lambda n: _pairs(n, 'a_id\tb_id\n"rna0001\tprotein0001\n'), 2, "quote"),
    "a short row": (lambda n: _pairs(n, "a_id\tb_id\nrna0001\n"), 2, "1 column, the header has 2"),
    "not UTF-8": (_not_utf8, 2, "is not UTF-8"),
    "an output that exists": (_exists, 5, "is there already; replace it with --overwrite"),
    "parts of another": (_other_parts, 5, "holds parts of another table"),
    "parts without --resume": (_unfinished_parts, 5, "go on with --resume"),
    "a folder as output": (_folder_as_out, 2, "is a folder; name a file in it"),
    "a file as folder": (_file_as_folder, 2, "is no folder"),
    "no known ending": (lambda n: n.command("out.xlsx"), 2, "ends in none of .tsv, .csv, .parquet"),
    "the recipe's rows are gone": (_recipe_gone, 2, "rna recipes here: none"),
    "a cache of another recipe": (_recipe_differs, 2, "holds no rna recipe 5555555555555555"),
    "a run that was moved": (_elsewhere, 2, "lies in no dataset's folder; name the dataset"),
    "the dataset of another run": (_other_data, 2, "holds no rna recipe"),
    "weights for none": (_weights_for_none, 2, "--weights-a: profile has no weights"),
    "no such device": (lambda n: n.command("out.tsv", "--device", "gpu"), 2, "--device gpu"),
    "a chunk of nothing": (lambda n: n.command("out.tsv", "--chunk", 0), 2, "--chunk"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_use_says_what_is_wrong_and_leaves_nothing(name: str, new: New, ran: Callable[..., Ran]) -> None:
    make, code, text = BAD[name]
    words = make(new)
    out = Path(str(words[words.index("--out") + 1]))
    before = out.read_bytes() if out.is_file() else None
    found, lines = ran(words)
    assert found == code, lines
    assert len(lines) == 1, lines
    assert text in lines[0]
    assert (out.read_bytes() if out.is_file() else None) == before
    assert not [path for path in Path().rglob("*.tmp*") if "embeddings" not in path.parts]


def test_parquet_without_pyarrow_is_said_before_anything_is_read(
    new: New, ran: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, lines = ran(["predict", "no/run", "--pairs", "none", "--out", "out.parquet"])
    assert (code, len(lines)) == (2, 1)
    assert "pip install pyarrow" in lines[0]


def test_a_disk_that_takes_no_more_leaves_parts_that_are_gone_on_with(new: New, ran: Callable[..., Ran]) -> None:
    assert ran(new.command("whole.tsv", "--chunk", 4))[0] == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # a part is smaller, the whole is not
    try:
        code, lines = ran(new.command("out.tsv", "--chunk", 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, len(lines)) == (4, 1), lines
    assert "raise `ulimit -f`" in lines[0]
    assert "run it again with --resume" in lines[0]
    assert not Path("out.tsv").exists()
    assert ran(new.command("out.tsv", "--chunk", 4, "--resume"))[0] == 0
    assert Path("out.tsv").read_bytes() == Path("whole.tsv").read_bytes()


def test_a_cache_that_cannot_be_written_is_said_before_an_encoder_is_loaded(
    new: New, ran: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and allowed(path, mode))
    monkeypatch.setitem(sys.modules, "crossllm.embed.run.by_recipe", None)
    code, lines = ran(new.command("out.tsv"))
    assert (code, len(lines)) == (2, 1)
    assert "cannot be written, and 11 rna sequences have no rows there" in lines[0]
    assert "--cache DIR" in lines[0]


def test_skipped_rows_are_listed_and_counted(
    new: New, ran: Callable[..., Ran], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (new.folder / "pairs.tsv").read_text()
    (new.folder / "pairs.tsv").write_text(text + "rna9999\tprotein0001\t1\nrna0001\n")
    code = runner._run(crossllm, [*map(str, new.command("out.tsv", "--on-bad", "skip", "--json"))])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out)["skipped"] == 2
    assert "2 bad rows left out" in said.err
    assert Path("skipped.predict.tsv").read_text().count("\n") == 3
    assert Path("out.tsv").read_text().count("\n") == 31
