"""What users' machines do to the programs: no home, no place to write, odd variables and bounds, odd names of files."""

from __future__ import annotations

import ast
import os
import resource
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numba
import numpy as np
import pytest
from conftest import ROOT
from made_runs import embedded_demo
from made_weights import random_tensors, rnabert_shapes
from safetensors.torch import save_file
from test_cli_layers import MODULES

from crossllm import asked, folders, kernels
from crossllm.cache.console import machine, runner
from crossllm.cache.files.paths import as_text
from crossllm.embed.cli import embed as embed_command
from crossllm.embed.weights.published import local_weights, unchecked_weights, weights_folder
from crossllm.pipeline.training import tracking
from crossllm.pipeline.training.progress import Epoch

pytestmark = pytest.mark.slow

SMALL = ["--tokens", "pooled", "--folds", "2", "--epochs", "1", "--d-model", "8", "--d-state", "4", "--quiet",
         "--baselines", "fast"]  # fmt: skip
CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
NOWHERE = "/proc/crossllm"  # not even root can make a folder there
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc, /dev/full and LC_ALL=C are Linux's")

TRAIN = f"""
import sys
import crossllm.folders as folders
real = folders.can_be_written
folders.can_be_written = lambda folder: not str(folder).startswith({str(ROOT)!r}) and real(folder)
from crossllm.pipeline.main import train
try:
    train()
finally:
    import numpy as np
    from crossllm.pipeline.evaluation.concordance import concordance
    assert concordance(np.arange(3.0), np.arange(3.0), np.ones((1, 3))) == [1]
"""
"""The program where the install can be read alone, and after it the kernel that compiles soonest."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_demo(tmp_path_factory.mktemp("machine") / "demo", entities=16, pairs=60)


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    kernels._elsewhere.cache_clear()
    kernels._say.cache_clear()


def run(code: str, *arguments: object, cwd: Path, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    return subprocess.run(command, cwd=cwd, env=environment | env, capture_output=True, text=True, timeout=300)


def program_in_process(*arguments: str) -> int:
    return runner._run(embed_command, arguments)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if not line.startswith("note: ")]


# -- no home, an install that only root can write


@linux
@pytest.mark.parametrize(
    ("home", "scan", "threads"),
    [
        ("~", "numba" if CHAOS else "reference", {}),  # whose kernels take 20 seconds to compile
        ("/nonexistent", "reference", {"NUMBA_NUM_THREADS": ""}),
        ("relative", "reference", {}),
    ],
)
def test_train_runs_without_a_home_and_makes_no_folder_for_one(
    home: str, scan: str, threads: dict[str, str], dataset: Path, tmp_path: Path
) -> None:
    """`~` is what Python makes of a home that nobody knows: no $HOME, no line in the table of users.

    A number of threads that is empty counts as unset.
    """
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    done = run(
        TRAIN, "--cache", dataset, "--out", tmp_path / "run", *SMALL, "--scan", scan,
        cwd=work, env={"HOME": home, "TMPDIR": str(temporary), **threads},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not errors(done), "matplotlib has a place of its own and says nothing either"
    (said,) = [line for line in done.stderr.splitlines() if "compiled kernels" in line]
    assert f"kept in {temporary}/crossllm-{os.geteuid()}" in said
    assert not list(work.iterdir())
    (kept,) = temporary.glob("crossllm-*")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    found = {path.name.partition("-")[0] for path in kept.rglob("*.nbi")}
    assert "concordance._ordered_alike" in found, "the next process finds the kernels"
    assert scan == "reference" or "numba_kernels.forward" in found


@linux
def test_places_for_kernels_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "k.py").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    readonly = Path("/proc/version")  # a source beside which nothing can be written
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.place_for(tmp_path / "k.py", str(tmp_path / "named")) == str(tmp_path / "named")
        assert kernels.place_for(tmp_path / "k.py") == ""
        assert kernels.place_for(readonly) == str(tmp_path / "home" / ".cache" / "numba")
    with pytest.warns(kernels.KernelsNotKept, match="kept beside the code: NUMBA_CACHE_DIR=/proc/crossllm cannot"):
        assert kernels.place_for(tmp_path / "k.py", NOWHERE) == ""
    kernels._elsewhere.cache_clear()
    monkeypatch.setenv("HOME", "~")
    with pytest.warns(kernels.KernelsNotKept, match="kept in"):
        assert kernels.place_for(readonly) == str(tmp_path / f"crossllm-{os.geteuid()}" / "numba")
    kernels._elsewhere.cache_clear()
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: NOWHERE)
    with pytest.warns(kernels.KernelsNotKept, match="compiled again in every process"):
        assert kernels.place_for(readonly) is None


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_temporary_folder_open_to_others_is_never_taken(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine code is loaded from it."""
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    mine = tmp_path / f"crossllm-{os.geteuid()}"
    mine.mkdir()
    mine.chmod(mode)
    assert folders.temporary() is None
    mine.chmod(0o700)
    assert folders.temporary() == mine
    mine.rename(tmp_path / "elsewhere")
    mine.symlink_to(tmp_path / "elsewhere")
    assert folders.temporary() is None, "a link may be somebody else's"


def test_the_folder_at_hand_is_no_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    assert folders.temporary() is None
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_costs_the_keeping_of_a_kernel_and_not_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "place_for", lambda *_: str(tmp_path))
    twice = kernels.kernel()(lambda x: 2 * x)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", full)
    with pytest.warns(kernels.KernelsNotKept, match="No space left on device"):
        assert twice(21) == 42


def test_every_kernel_that_is_kept_goes_through_the_one_helper() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name != "crossllm.kernels":
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert called not in ("njit", "jit", "vectorize", "guvectorize") or all(
                    keyword.arg != "cache" for keyword in node.keywords
                ), f"{name}, line {node.lineno}: use crossllm.kernels.kernel"


def test_nothing_of_ours_takes_a_home_unseen() -> None:
    """`expanduser` gives `~` back, and `Path.home()` raises, where there is none."""
    found = {
        (name, node.attr)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("home", "expanduser", "expandvars")
    }
    assert found == {("crossllm.folders", "expanduser"), ("crossllm.embed.weights.published", "expanduser")}


@pytest.mark.parametrize("home", ["~", ""])
def test_without_a_home_weights_are_not_at_hand_and_models_are_listed(
    home: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for named in ("", "~/weights") if home else ("",):
        monkeypatch.setenv("CROSSLLM_WEIGHTS", named)
        with pytest.raises(runner.CrossLLMError, match="no home folder"):
            weights_folder()
        assert local_weights("rnabert") is None
        assert unchecked_weights("rnabert") is None
        assert program_in_process("models") == 0
        assert program_in_process("run", "--modality", "rna", "--input", "x.fasta") == 2
        assert "needs its weights" in capsys.readouterr().err
        assert program_in_process("pull", "rnabert") == 2
        *_licence, line = capsys.readouterr().err.splitlines()
        assert "no home folder" in line or "no home" in line


# -- variables and bounds


@pytest.mark.parametrize("threads", ["0", "many", "-1", "1.5", "²"])
def test_a_number_of_threads_that_is_none_is_one_line(threads: str, dataset: Path, tmp_path: Path) -> None:
    train = "from crossllm.pipeline.main import train; train()"
    done = run(train, "--cache", dataset, "--out", "run", *SMALL, cwd=tmp_path, env={"NUMBA_NUM_THREADS": threads})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: NUMBA_NUM_THREADS='{threads}': a number of threads, 1 or more, is expected")
    assert not (tmp_path / "run").exists()


def test_embed_run_of_a_language_model_looks_at_the_threads_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "rnabert.safetensors"
    save_file(random_tensors(rnabert_shapes(), np.random.default_rng(0)), weights)
    (tmp_path / "s.fasta").write_text(">s\nACGUACGU\n")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    asked_for = ["run", "--modality", "rna", "--input", str(tmp_path / "s.fasta"), "--cache", str(tmp_path / "c")]
    assert program_in_process(*asked_for, "--encoder", "rnabert", "--weights", str(weights)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "NUMBA_NUM_THREADS='0'" in line
    assert not (tmp_path / "c").exists()
    assert program_in_process(*asked_for, "--encoder", "profile") == 0, "which needs no Numba"


def bounded(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


@linux
@pytest.mark.parametrize("kib", [500_000, 700_000, 900_000, 1_000_000, 1_200_000])
def test_a_bound_on_address_space_is_one_line(kib: int, dataset: Path, tmp_path: Path) -> None:
    """At some of these a library raises, at others it ends the process with an abort."""
    command = [sys.executable, "-c", "from crossllm.pipeline.main import train; train()", "--cache", dataset,
               "--out", tmp_path / "run", *SMALL]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=bounded(kib << 10))
    assert done.returncode == 4, done.stderr
    (line,) = errors(done)
    assert line.startswith("error: out of memory (`ulimit -v` or the scheduler bounds the address space to ")


@pytest.mark.parametrize(
    "failure", ["ImportError('libx.so: failed to map segment from shared object')", "OSError('Could not load libx')",
                "SystemError('x')", "RuntimeError('x')"],
)  # fmt: skip
def test_a_library_that_does_not_load_within_a_bound_is_out_of_memory(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "falls_over.py").write_text(f"raise {failure}\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    @click.command("x")
    def command() -> None:
        import falls_over  # noqa: F401

    monkeypatch.setattr(machine, "address_space", lambda: 2 << 30)
    assert runner._run(command, []) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "bounds the address space to 2.0 GiB" in line
    monkeypatch.setattr(machine, "address_space", lambda: None)
    with pytest.raises((ImportError, OSError, SystemError, RuntimeError)):
        runner._run(command, [])


@linux
def test_a_full_disk_under_tensorboard_is_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossllm.pipeline.cli_train import train

    monkeypatch.setattr(tracking, "open", lambda *_: Path("/dev/full").open("wb"), raising=False)  # noqa: SIM115
    assert runner._run(train, ["--cache", str(dataset), "--out", str(tmp_path / "run"), *SMALL]) == 4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert "events.out.tfevents" in line
    assert "No space left on device" in line


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking.FoldEvents(tmp_path, 3, "classification") as events:
        events.add(Epoch(1, 0.5, 0.75, 0.25))
        events.add(Epoch(2, 0.25, 0.5, None))
    found = EventAccumulator(str(tmp_path / "tensorboard" / "fold-3"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in found.Scalars("validation/loss")] == [(1, 0.75), (2, 0.5)]
    assert [(e.step, e.value) for e in found.Scalars("validation/auroc")] == [(1, 0.25)]


# -- names of files


STEPS = """
import os
import sys
from importlib import import_module
for name, arguments in eval(sys.argv[1]):
    sys.argv[1:] = map(os.fsdecode, arguments)  # as Python decodes them under this locale
    try:
        getattr(import_module("crossllm.pipeline.main"), name)()
    except SystemExit as left:
        assert not left.code, arguments
"""
"""Programs one after the other in one Python: its locale is the same for all."""
LOCALES = {
    "C.utf8": {"LC_ALL": "C.utf8"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@linux
@pytest.mark.parametrize(
    ("odd", "locale"), [(b"prot\xe9ines", "C.utf8"), ("protéines".encode(), "C")], ids=["latin-1", "LC_ALL=C"]
)
def test_names_in_any_encoding_under_any_locale(odd: bytes, locale: str, dataset: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd))
    folder.mkdir()
    for name in ("rna", "protein"):
        shutil.copy(dataset / f"{name}.fasta", folder / os.fsdecode(name.encode() + b"_" + odd))
    shutil.copy(dataset / "pairs.tsv", folder)
    rna, protein = (folder / os.fsdecode(name + odd) for name in (b"rna_", b"protein_"))
    where = ["--cache", folder / "c"]
    steps: list[tuple[str, list[str | Path]]] = [
        ("main", ["data", "import", "--a", f"rna={rna}", "--b", f"protein={protein}",
                  "--pairs", folder / "pairs.tsv", *where]),
        ("embed", ["run", "--modality", "rna", "--input", folder / "c" / "rna.fasta", "--encoder", "profile"]),
        ("embed", ["run", "--modality", "protein", "--input", protein, *where, "--encoder", "profile"]),
        ("train", [*where, *SMALL, "--out", folder / "run"]),
        ("main", ["cache", "export", *where, "--modality", "rna", "--format", "npy", "--output", folder / "out"]),
        ("main", ["cache", "import", "--modality", "rna", "--input", folder / "out", "--fasta", rna,
                  "--cache", folder / "d"]),
    ]  # fmt: skip
    given = [(name, [os.fsencode(argument) for argument in arguments]) for name, arguments in steps]
    done = run(STEPS, given, cwd=folder, env=LOCALES[locale])
    assert done.returncode == 0, done.stderr
    assert not errors(done)
    assert (folder / "d" / "embeddings").is_dir(), "made by the last of them"
    source = (folder / "c" / "dataset.toml").read_text(encoding="utf-8")
    assert "prot\\\\xe9ines" in source if odd.startswith(b"prot\xe9") else "protéines" in source


def test_a_name_as_text(tmp_path: Path) -> None:
    assert as_text("a é") == "a é"
    assert as_text("\udcc3\udca9") == "é", "as LC_ALL=C hands it over"
    assert as_text("prot\udce9ines") == "prot\\xe9ines"


# -- `python -m`, `make setup`


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_no_program_says_so(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with_main = 'if __name__ == "__main__":' in MODULES[name].read_text()
    if name in asked.PROGRAMS:
        assert with_main
        asked.refuse_no_program(["python", "-m", name])
        return
    assert not with_main, f"put {name} into crossllm.asked.PROGRAMS"
    with pytest.raises(SystemExit) as left:
        asked.refuse_no_program(["python", "-m", name])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name} is no program; run `python -m crossllm")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-m crossllm.embed run --help", "`python -m crossllm embed`"),
        ("-m crossllm.embed.cli --help", "`python -m crossllm embed`"),
        ("-m crossllm.pipeline.cli_train", "`python -m crossllm train`"),
        ("-Bmcrossllm.pipeline.train", "`python -m crossllm train`"),
        ("-X utf8 -W error -Im crossllm.cache", "`python -m crossllm cache`"),
        ("-m crossllm.not_there", "`python -m crossllm`"),
    ],
)
def test_python_m_ends_with_2_and_one_line(words: str, said: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert said in line


def test_python_m_of_others_is_left_alone(tmp_path: Path) -> None:
    for words in (["-m", "crossllm", "--help"], ["-m", "pytest", "--version"], ["-c", "import crossllm.cache", "-m"]):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_setup_refuses_an_older_python_before_it_makes_anything(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.10"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c \"import sys; sys.version_info = (3, 10, 14, 'final', 0); $2\"\n"
    )
    old.chmod(0o755)
    for python, said in ((old, "is Python 3.10, 3.11 or newer is needed"), ("not-there", "is no Python that can")):
        done = subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]
        assert not (tmp_path / ".venv").exists()
    again = ["make", "--dry-run", "setup", f"PYTHON={sys.executable}"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
