"""A dataset grows: one more pair, another table, another column; embeddings and finished runs stay."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from conftest import Program
from made_runs import embedded_demo

from crossllm.cache.files import fsio

QUICK = ["--tokens", "pooled", "--folds", "2", "--epochs", "1", "--d-model", "8", "--d-state", "4", "--quiet",
         "--baselines", "none"]  # fmt: skip


class Sources:
    """The user's own files, and `data import` of them."""

    def __init__(self, folder: Path, program: Program) -> None:
        demo = embedded_demo(folder / "demo", entities=16, pairs=60)
        self.rna, self.protein = ((demo / f"{m}.fasta").read_text() for m in ("rna", "protein"))
        self.pairs = (demo / "pairs.tsv").read_text()
        self.folder, self.cache, self._program = folder, folder / "grown", program

    def imported(self, *flags: str) -> tuple[int, list[str]]:
        for name in ("rna", "protein"):
            (self.folder / f"{name}.fasta").write_text(getattr(self, name))
        (self.folder / "pairs.tsv").write_text(self.pairs)
        done = self._program("crossllm", "data", "import", "--a", "rna=rna.fasta", "--b", "protein=protein.fasta",
                             "--pairs", "pairs.tsv", "--cache", self.cache, *flags)  # fmt: skip
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr.splitlines()

    def embed(self) -> str:
        said = ""
        for name in ("rna", "protein"):
            done = self._program("embed", "run", "--modality", name, "--input", self.cache / f"{name}.fasta",
                                 "--encoder", "profile", "--quiet")  # fmt: skip
            assert done.returncode == 0, done.stderr
            said += done.stdout
        return said


@pytest.fixture
def sources(tmp_path: Path, program: Program) -> Sources:
    found = Sources(tmp_path, program)
    found.rna += ">spare\nACGUACGUAC\n"
    assert found.imported()[0] == 0
    return found


def contents(*folders: Path) -> dict[Path, str]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_embeddings_and_finished_runs_stay(sources: Sources, program: Program) -> None:
    sources.embed()
    out = sources.cache / "runs" / "first"
    assert program("train", "--cache", sources.cache, "--out", out, *QUICK).returncode == 0
    before = contents(sources.cache / "embeddings", sources.cache / "runs")
    head, first, *rest = sources.pairs.splitlines()
    some = first.split("\t")[1]
    sources.rna += ">one_more\nGGGAAACCCUUU\n"
    sources.pairs = "\n".join([head, first, *rest, f"one_more\t{some}\t1", ""])
    code, (*_, line) = sources.imported()
    assert (code, "add to it with --update" in line) == (5, True)
    code, lines = sources.imported("--update")
    assert code == 0
    assert "note: update: 1 rna ids more; 1 pair more" in lines
    assert contents(sources.cache / "embeddings", sources.cache / "runs") == before
    assert "embedded 1, " in sources.embed()
    done = program("train", "--cache", sources.cache, "--out", sources.cache / "runs" / "second", *QUICK)
    assert done.returncode == 0, done.stderr
    assert contents(out) == {path: digest for path, digest in before.items() if out in path.parents}


def test_what_changed_is_said(sources: Sources) -> None:
    assert sources.imported("--update")[1][-1] == "note: update: nothing has changed"
    head, first, _second, *rest = sources.pairs.splitlines()
    cells = first.split("\t")
    cells[2] = str(1 - int(cells[2]))
    rows = ["\t".join(cells), *rest]
    sources.pairs = "\n".join([head + "\tcut", *(f"{row}\t{n % 3}" for n, row in enumerate(rows)), ""])
    code, lines = sources.imported("--update")
    assert code == 0
    assert lines[-1] == "note: update: 1 pair fewer; 1 pair with another label; column new: cut"
    sources.pairs = sources.pairs.replace("\t2\n", "\t5\n")
    assert "column cut: " in sources.imported("--update")[1][-1]
    sources.pairs = "\n".join([head, *rows, ""])
    assert sources.imported("--update")[1][-1] == "note: update: column gone: cut"


def test_a_sequence_in_no_pair_any_more_stays(sources: Sources) -> None:
    head, first, *rest = sources.pairs.splitlines()
    gone = first.split("\t")[0]
    sources.pairs = "\n".join([head, *(row for row in rest if row.split("\t")[0] != gone), ""])
    assert sources.imported("--update")[0] == 0
    assert f">{gone}\n" in (sources.cache / "rna.fasta").read_text()


def test_a_sequence_that_is_changed_or_gone_is_refused(sources: Sources) -> None:
    before = contents(sources.cache)
    whole = sources.rna
    start, sequence, *rest = whole.splitlines()
    sources.rna = "\n".join([start, sequence + "A", *rest, ""])
    code, (line,) = sources.imported("--update")[0], sources.imported("--update")[1][-1:]
    assert code == 5
    assert f"id '{start[1:]}' already stands for another sequence here" in line
    head, *pairs = sources.pairs.splitlines()
    sources.rna = "\n".join([*rest, ""])
    sources.pairs = "\n".join([head, *(row for row in pairs if row.split("\t")[0] != start[1:]), ""])
    code, lines = sources.imported("--update")
    assert code == 5
    assert f"rna id '{start[1:]}' of the dataset is not in the new files" in lines[-1]
    assert contents(sources.cache) == before


def test_another_task_or_another_side_is_another_dataset(sources: Sources) -> None:
    code, lines = sources.imported("--update", "--task", "regression")
    assert (code, "use another --cache" in lines[-1], "--update" in lines[-1]) == (5, True, False)


def test_an_update_cut_off_is_made_whole_by_the_same_again(
    sources: Sources, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset

    sources.pairs = "\n".join([*sources.pairs.splitlines()[:-1], ""])
    (sources.folder / "pairs.tsv").write_text(sources.pairs)
    sides = (Side(name, sources.folder / f"{name}.fasta") for name in ("rna", "protein"))
    options = ImportOptions(*sides, sources.folder / "pairs.tsv", sources.cache, update=True)
    replace, written = fsio.replace, 0

    def cut_off(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if path.name == "dataset.toml":
            raise KeyboardInterrupt
        replace(path, data)

    monkeypatch.setattr(fsio, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(options)
    assert written > 1
    monkeypatch.undo()
    assert sources.imported("--update")[0] == 0
    sources.embed()
    assert program("train", "--cache", sources.cache, *QUICK).returncode == 0


def test_update_of_an_empty_folder_is_an_import(sources: Sources) -> None:
    sources.cache = sources.folder / "new"
    code, lines = sources.imported("--update")
    assert code == 0
    assert (sources.cache / "dataset.toml").exists()
    assert not any("update" in line for line in lines)


def test_what_the_owner_wrote_into_dataset_toml_stays(sources: Sources) -> None:
    toml = sources.cache / "dataset.toml"
    toml.write_text('embeddings = "../all"\n' + toml.read_text())
    for flags in ((), ("--update",)):
        assert sources.imported(*flags)[0] == 0
        assert 'embeddings = "../all"' in toml.read_text()
