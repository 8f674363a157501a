"""RELIABILITY P10: a run that is cut off at any instant goes on to the same loss trace and weights, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import embedded_demo
from training_kills import OUTPUTS, options_of, train_on
from zygote import Zygote

from crossllm.model.batch import Batch
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.train import train
from crossllm.pipeline.training import keeping
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.fold import FoldResult, fit_fold, fold_seed
from crossllm.pipeline.training.inputs import open_inputs
from crossllm.pipeline.training.keeping import Keeper, Saved

pytestmark = pytest.mark.slow

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
"""`make chaos`: the long ones."""
KILLS = 100 if CHAOS else 5


class Cut(BaseException):
    """The run ends here, as by a kill."""


@pytest.fixture(scope="module")
def training() -> Iterator[Zygote]:
    with Zygote("training") as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, and a run on it that nothing cut off."""
    folder = tmp_path_factory.mktemp("whole")
    embedded_demo(folder / "demo", entities=30, pairs=160)
    train(options_of(folder / "demo"))
    return folder


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a fold has come is kept after every step."""
    monkeypatch.setattr(keeping, "EVERY", 0)
    monkeypatch.setattr(keeping, "TIMES", 0)


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "run" / name).read_bytes() for name in OUTPUTS}


def cut_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """The run ends right after its n-th save."""
    kept = Keeper.save
    done: list[int] = []

    def save(self: Keeper, saved: Saved) -> None:
        kept(self, saved)
        done.append(1)
        if len(done) == saves:
            raise Cut

    monkeypatch.setattr(Keeper, "save", save)


class OneFold:
    """The first fold of the run on a cache, without what comes after it."""

    def __init__(self, cache: Path) -> None:
        inputs, self.config = open_inputs(options_of(cache)), options_of(cache).config
        self.parts: Parts = cut_parts(inputs.dataset, inputs.folds, 0, self.config.validation, self.config.seed)
        self._batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)

    def fit(self, keeper: Keeper | None) -> FoldResult:
        seed, device = fold_seed(self.config.seed, 0), torch.device("cpu")
        return fit_fold(self._batches, self.parts, self.config, seed, device, lambda _epoch: None, keeper)

    def cut(self, keeper: Keeper, saves: int) -> None:
        """Fit it, and cut it off after so many saves."""
        with pytest.MonkeyPatch.context() as patch:
            cut_after(patch, saves)
            with pytest.raises(Cut):
                self.fit(keeper)


@pytest.fixture(scope="module")
def fold(whole: Path) -> OneFold:
    return OneFold(whole / "demo")


@pytest.fixture(scope="module")
def fitted(fold: OneFold) -> FoldResult:
    """It, cut off by nothing."""
    return fold.fit(None)


def same(one: FoldResult, other: FoldResult) -> bool:
    weights = all(torch.equal(one.state[name], other.state[name]) for name in other.state)
    return weights and one.history == other.history and one.score.tobytes() == other.score.tobytes()


def partials(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir() if "partial" in path.name)


@pytest.mark.usefixtures("every_step")
def test_cut_off_after_any_step_and_gone_on_with(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Again and again, after 1 to 9 saves each time: the middle of an epoch, its end, the validation, the next fold."""
    shutil.copytree(whole / "demo", tmp_path / "demo")
    cuts = 0
    while True:
        with monkeypatch.context() as patch:
            cut_after(patch, int(rng.integers(1, 10)))
            try:
                train_on(tmp_path / "demo", None)
                break
            except Cut:
                cuts += 1
                torch.manual_seed(cuts)  # another process has another state
    assert cuts > 3
    assert outputs(tmp_path) == outputs(whole)
    assert partials(tmp_path / "run" / "checkpoints") == []


def test_killed_at_random_instants(training: Zygote, whole: Path, memory: Path, rng: np.random.Generator) -> None:
    """SIGKILL before an operation on a file, in the midst of one, or a while after it; runs until one is finished."""
    kills, rounds, in_a_save = 0, 0, 0
    while kills < KILLS:
        folder = memory / str(rounds)
        shutil.copytree(whole / "demo", folder / "demo")
        code = -signal.SIGKILL
        while code != 0:
            n = int(rng.integers(1, 150))
            if kills == KILLS:
                done = training.run("train", folder / "demo")
            elif rng.random() < 0.5:
                done = training.run("train", folder / "demo", kill=(n, bool(rng.integers(2))))
            else:
                done = training.run("train", folder / "demo", kill_near=(n, float(rng.uniform(0, 0.05))))
            code = done.code
            assert code in (0, -signal.SIGKILL), f"killed at {n}, the folder was {folder}"
            kills += code != 0
            in_a_save += code != 0 and done.kind in ("create", "write", "fsync", "close", "rename")
        assert outputs(folder) == outputs(whole)
        left = sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())
        kept = [f"fold-{n}.{kind}" for n in (0, 1) for kind in ("json", "safetensors")]
        assert left == ["baselines-0.json", "baselines-1.json", *kept]
        shutil.rmtree(folder)
        rounds += 1
    print(f"{kills} kills in {rounds} runs, {in_a_save} of them while a file was written")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("damage", [flip, cut_short, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    kind: str,
    damage: Callable[[Path], None],
    fold: OneFold,
    fitted: FoldResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fold.cut(Keeper(tmp_path, 0, "d"), 7)
    assert partials(tmp_path) == [f"fold-0.partial-{n}.{k}" for n in (6, 7) for k in ("json", "safetensors")]
    damage(tmp_path / f"fold-0.partial-7.{kind}")
    capsys.readouterr()
    assert same(fold.fit(Keeper(tmp_path, 0, "d")), fitted)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (0 if (kind, damage) == ("json", Path.unlink) else 1)  # without its JSON it was not finished
    assert all("fold-0.partial-7." in line and line.endswith("going on from the checkpoint before") for line in said)


@pytest.mark.usefixtures("every_step")
def test_after_a_fall_back_two_good_ones_are_kept(fold: OneFold, fitted: FoldResult, tmp_path: Path) -> None:
    """What is damaged is no longer one of the two."""
    fold.cut(Keeper(tmp_path, 0, "d"), 7)
    flip(tmp_path / "fold-0.partial-7.safetensors")
    fold.cut(Keeper(tmp_path, 0, "d"), 1)
    assert {name.split(".")[1] for name in partials(tmp_path)} == {"partial-6", "partial-8"}
    assert same(fold.fit(Keeper(tmp_path, 0, "d")), fitted)


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_without_a_whole_checkpoint_the_fold_begins_again(
    kind: str, fold: OneFold, fitted: FoldResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold.cut(Keeper(tmp_path, 0, "d"), 5)
    for path in tmp_path.glob(f"*.{kind}"):
        flip(path)
    capsys.readouterr()
    assert same(fold.fit(Keeper(tmp_path, 0, "d")), fitted)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("no checkpoint of fold 1 is whole, it begins again")


@pytest.mark.usefixtures("every_step")
def test_a_checkpoint_that_is_not_the_folds_own_is_not_taken(fold: OneFold, tmp_path: Path) -> None:
    """Of other settings or test pairs, or with a number edited by hand."""
    fold.cut(Keeper(tmp_path, 0, "d"), 4)
    assert Keeper(tmp_path, 0, "d").load() is not None
    assert Keeper(tmp_path, 0, "another").load() is None
    assert Keeper(tmp_path, 1, "d").load() is None
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epoch": 3}))
    assert Keeper(tmp_path, 0, "d").load() is None


@pytest.mark.usefixtures("every_step")
def test_every_training_pair_is_used_once_an_epoch(
    fold: OneFold, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used: list[np.ndarray] = []
    stream = PairBatches.stream

    def watched(self: PairBatches, asked: Sequence[np.ndarray], statistics: bool) -> Iterator[Batch]:
        for pairs, batch in zip(asked, stream(self, asked, statistics), strict=True):
            if not torch.is_inference_mode_enabled():
                used.append(pairs)
            yield batch

    monkeypatch.setattr(PairBatches, "stream", watched)
    for saves in (2, 5, 3, 1):  # one after each step, and one after each batch of the validation part
        fold.cut(Keeper(tmp_path, 0, "d"), saves)
    fold.fit(Keeper(tmp_path, 0, "d"))
    train = fold.parts.train
    for epoch in np.split(np.concatenate(used), fold.config.epochs):
        assert sorted(epoch.tolist()) == sorted(train.tolist())


def test_keeping_is_cheap_and_not_too_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that took a second is followed by none for a hundred; one that took nothing by none for ten."""
    now = [0.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: now[0])
    keeper = Keeper(tmp_path, 0, "d")
    assert not keeper.due()
    now[0] = 10.0
    assert keeper.due()
    replace = keeping.fsio.replace

    def slow(path: Path, data: bytes) -> None:
        replace(path, data)
        now[0] += 0.5

    keeper.save(Saved({}, {"x": torch.ones(1)}))
    assert [keeper.due() for now[0] in (19.9, 20.0)] == [False, True]
    monkeypatch.setattr(keeping.fsio, "replace", slow)
    keeper.save(Saved({}, {"x": torch.ones(1)}))
    assert [keeper.due() for now[0] in (120.9, 121.0)] == [False, True]


FLAGS = ["--epochs", "6", "--patience", "6", "--folds", "2", "--d-model", "8", "--set", "batch_pairs=8", "--quiet"]


@pytest.fixture(scope="module")
def unheard(programs: Zygote, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the program that no signal has reached."""
    folder = tmp_path_factory.mktemp("unheard")
    flags = ["--cache", str(whole / "demo"), "--out", str(folder / "run"), *FLAGS]
    assert programs.program("train", flags, folder).returncode == 0
    return folder / "run"


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_signal_keeps_where_it_stands(
    number: signal.Signals, said: str, programs: Zygote, unheard: Path, whole: Path, tmp_path: Path
) -> None:
    """Exit 143 or 130, one line that names --resume, and the same run in the end as without the signal."""
    flags = ["--cache", str(whole / "demo"), "--out", str(tmp_path / "run"), *FLAGS]
    with (tmp_path / "err").open("wb") as err, open(os.devnull, "r+b") as nothing:
        child = programs.start("train", flags, (nothing, nothing, err), cwd=tmp_path)
        events = tmp_path / "run" / "tensorboard" / "fold-0"
        while not any(path.stat().st_size > 500 for path in events.glob("*")):  # an epoch or two are done
            assert child.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.002)
        child.send_signal(number)
        assert child.wait(60) == 128 + number
    lines = [line for line in (tmp_path / "err").read_text().splitlines() if not line.startswith("note: ")]
    assert lines == [f"{said}; what was committed before stays; the same command with --resume goes on"]
    kept = [name for name in partials(tmp_path / "run" / "checkpoints") if name.endswith(".json")]
    assert len(kept) == 1
    where = json.loads((tmp_path / "run" / "checkpoints" / kept[0]).read_text())
    assert 1 <= where["epoch"] <= 6, "it has come some way and not to the end"
    assert programs.program("train", [*flags, "--resume"], tmp_path).returncode == 0
    for name in ("history.csv", "predictions.tsv"):
        assert (tmp_path / "run" / name).read_bytes() == (unheard / name).read_bytes()


def test_a_reader_that_hangs_ends_the_program(whole: Path, tmp_path: Path) -> None:
    """P11: exit 4 and one line that names what was being read, the thread left where it hangs."""
    code = """
import time
from crossllm.cache.store.reader import CacheReader
from crossllm.pipeline.training import prefetch

prefetch.TICK = 0.02
CacheReader.gather = lambda self, keys: time.sleep(10**6)
from crossllm.pipeline.main import train
train()
"""
    flags = ["--cache", str(whole / "demo"), "--tokens", "residue", "--out", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=100)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 4, done.stderr
    assert f"{whole}/demo/embeddings/rna/profile-" in line
    assert "reading record " in line
    assert line.endswith("nothing came for 0.5 s; the system refused, run it again with --resume")
