from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import tomli_w
from conftest import Program

from crossllm.cache import InputError
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.cli_train import SETTINGS
from crossllm.pipeline.training.config import TrainConfig, resolve


def test_toml_then_set_then_flags(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nlr = 1\nepochs = 3\nfolds = 7\n[model]\nd_model = 16\nbidirectional = false\n")
    found = resolve(path, ["epochs=4", "model.d_model=20", "folds=8"], {"folds": "9", "fold_column": "2020"})
    expected = TrainConfig(
        lr=1.0, epochs=4, folds=9, fold_column="2020", model=ModelConfig(d_model=20, bidirectional=False)
    )
    assert found == expected
    assert resolve() == TrainConfig()


def test_a_saved_configuration_is_read_again_as_it_was(tmp_path: Path) -> None:
    config = TrainConfig(tokens="pooled", lr=1e-4, model=ModelConfig(noise=0.0))
    tables = {
        "dataset": {"digest": "x"},
        "recipe": {"a": "y"},
        "run": {"version": 2, "device": "cpu"},
        **config.to_tables(),
    }
    (tmp_path / "config.toml").write_text(tomli_w.dumps(tables))
    assert resolve(tmp_path / "config.toml") == config


def test_flags_say_the_defaults_there_are() -> None:
    fields = {f.name: f.default for c in (TrainConfig, ModelConfig) for f in dataclasses.fields(c)}
    assert {name: str(fields[name]) for name in SETTINGS} == {name: text for name, (_, _, text) in SETTINGS.items()}


BAD_TOML = {
    "missing": (None, "no such file"),
    "not toml": (b"[train\nlr = 1\n", "line 1"),
    "unknown key": (b"[train]\nepoch = 3\n", "[train] epoch: is not a setting of train; did you mean 'epochs'?"),
    "unknown table": (b"[training]\nepochs = 3\n", "'training' is no table of train"),
    "key outside a table": (b"epochs = 3\n", "'epochs' is no table of train"),
    "wrong type": (b"[train]\nepochs = '3'\n", "an integer is expected"),
    "a boolean for a number": (b"[train]\nlr = true\n", "a number is expected"),
    "a list": (b"[model]\nd_model = [32]\n", "an integer is expected"),
    "negative size": (b"[model]\nd_model = -4\n", "-4 is out of range; 1 to 4096"),
    "overflow": (b"[train]\nlr = 1e400\n", "inf is out of range"),
    "nan": (b"[train]\nlr = nan\n", "nan is out of range"),
    "huge integer": (b"[train]\nlr = 1" + b"0" * 400 + b"\n", "out of range"),
    "unknown split": (b"[train]\nsplit = 'clusters'\n", "'clusters' is not one of random, cold-a"),
    "twice": (b"[train]\nlr = 1\nlr = 2\n", "overwrite"),
    "utf-16": ("[train]\n".encode("utf-16"), "UTF-16"),
    "not utf-8": (b"[train]\n# \xe9\n", ":2: byte 0xe9"),
    "nested": (b"[train]\nlr = " + b"[" * 5000 + b"]" * 5000 + b"\n", "write TOML"),
    "yaml": (b"train: &a [*a, *a]\n", "write TOML"),
    "a table for a value": (b"[train.lr]\nx = 1\n", "a number is expected"),
}


@pytest.mark.parametrize("name", BAD_TOML)
def test_bad_toml_is_one_line(name: str, tmp_path: Path) -> None:
    content, say = BAD_TOML[name]
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(say)) as caught:
        resolve(path)
    assert len(caught.value.lines) == 1
    assert "c.toml" in caught.value.lines[0]
    assert "\n" not in caught.value.lines[0]


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("lr", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("learning_rate=3", "not a setting of train"),
        ("model.lr=3", "not a setting of train"),
        ("lr=fast", "--set lr: 'fast' is no such value; a number"),
        ("bidirectional=maybe", "true or false is expected"),
        ("epochs=2.5", "an integer is expected"),
        ("lr=1_0", "a number is expected"),
        ("seed=-1", "out of range"),
    ],
)
def test_bad_set_is_one_line(text: str, say: str) -> None:
    with pytest.raises(InputError, match=re.escape(say)) as caught:
        resolve(None, [text])
    assert len(caught.value.lines) == 1


def test_every_bad_setting_is_told_at_once(program: Program) -> None:
    done = program("train", "--cache", "x", "--lr", "-1", "--set", "epoch=3", "--set", "d_model=0")
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["--set epoch", "--set d_model", "--lr"]
