"""Values and paths that would command a terminal: every line of output is printable, and an error is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Program
from made_runs import embedded_demo

from crossllm.cache.console import messages, runner
from crossllm.cache.console.progress import byte_progress
from crossllm.pipeline.cli import crossllm

ODD = "a\n\x1b[2J\r\x07\u202eb"
LONG = "x" * 5000
RUN = ["embed", "run", "--modality", "rna", "--input", "a.fasta", "--quiet"]
IMPORT = ["data", "import", "--cache", "c", "--pairs", "p"]
BAD_VALUES = [
    ["embed", "pull"],
    ["embed", "pull", "rnabert", "--sha256"],
    ["embed", "pull", "rnabert", "--url"],
    [*RUN, "--encoder"],
    [*RUN, "--encoder", "rnabert", "--weights", "w.pt", "--device"],
    [*RUN, "--segment-bytes"],
    ["train", "--cache", "demo", "--device"],
    ["train", "--cache", "demo", "--recipe"],
    ["train", "--cache", "demo", "--set"],
    ["train", "--cache", "demo", "--by"],
    ["train", "--cache", "demo", "--tokens"],
    ["train", "--cache", "demo", "--fusion"],
    ["train", "--cache", "demo", "--split", "given", "--fold-column"],
    ["cache", "verify", "--cache", "demo", "--data-subset"],
    [*IMPORT, "--b", "rna=x", "--a"],
    [*IMPORT, "--a", "rna=a.fasta", "--b", "rna=a.fasta", "--where"],
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "a.fasta").write_text(">x\nACGU\n")
    (folder / "w.pt").write_bytes(b"")
    embedded_demo(folder / "demo", entities=30, pairs=160)
    return folder


@pytest.mark.parametrize("value", [ODD, LONG], ids=["odd", "long"])
@pytest.mark.parametrize("arguments", BAD_VALUES, ids=lambda given: " ".join(given[:2] + given[-1:]))
def test_a_value_in_an_error_is_printable_and_cut(
    arguments: list[str], value: str, demo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    assert runner._run(crossllm, [*arguments, value]) == 2
    *notes, line = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(said.startswith("note: ") for said in notes)
    assert all(said.isprintable() and len(said) < 800 for said in [*notes, line])


def test_a_path_in_a_result_is_printable(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    embedded_demo(folder / "demo", entities=30, pairs=160)
    merged = folder / "merged"
    rna = ("run", "--modality", "rna", "--encoder", "profile", "--quiet")
    quick = ("--folds", "2", "--epochs", "1", "--d-model", "8", "--tokens", "pooled", "--quiet", "--baselines", "fast")
    export = ("--modality", "rna", "--format", "csv", "--cache", folder / "demo")
    for number, (name, *arguments) in enumerate(
        [
            ("crossllm", "data", "demo", "--cache", folder / "other"),
            ("embed", *rna, "-i", folder / "demo" / "rna.fasta"),
            ("crossllm", "cache", "merge", folder / "demo", "--cache", merged, "--quiet"),
            ("crossllm", "cache", "export", *export, "--output", folder / "out.csv", "--quiet"),
            ("train", "--cache", folder / "demo", *quick, "--out", folder / "run"),
        ]
    ):
        done = program(name, *arguments)
        assert done.returncode == 0, done.stderr
        lines = [*done.stdout.split("\n"), *done.stderr.split("\n")]
        assert all(line.isprintable() for line in lines), (number, lines)
        assert "a\\n\\x1b[2J\\r\\x07\\u202eb" in done.stdout, number


def test_a_note_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    messages.note(f"note: {ODD}: gone")
    assert capsys.readouterr().err == "note: a\\n\\x1b[2J\\r\\x07\\u202eb: gone\n"


def test_a_bar_is_printable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("crossllm.cache.console.progress.hidden", lambda _quiet: False)
    with byte_progress(1, ODD, quiet=False) as done:
        done(1)
    assert "\x1b[2J" not in capsys.readouterr().err
