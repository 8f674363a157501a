"""`crossllm completion`: the scripts, run by the shells that are here, complete a command, a flag and a choice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from crossllm.cache.console import runner
from crossllm.cache.console.completion import PROGRAMS, SHELLS
from crossllm.pipeline.cli import crossllm
from crossllm.pipeline.cli_train import train

ASK = {
    # The words of a line, the last not finished → what the shell offers, a line each.  `crossllm_ask NAME WORD…`.
    "bash": """
        crossllm_ask() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            [[ $(complete -p "$1") == *"_$1_completion $1" ]] && "_$1_completion" "$1"
            printf '%s\\n' "${COMPREPLY[@]}"
        }""",
    # Outside a line that is edited, zsh's own two commands that offer words are not there: these print them.
    "zsh": """
        _describe() { print -rl -- "${(P@)3}"; }
        compadd() { print -rl -- "${(P@)@[-1]}"; }
        crossllm_ask() { words=("$@"); CURRENT=$#; "$crossllm_registered[$1]"; }""",
    "fish": """
        function crossllm_ask; complete -C (string join -- ' ' $argv); end""",
}
BEFORE = {"zsh": "typeset -A crossllm_registered; compdef() { crossllm_registered[$2]=$1; }"}
"""What the script needs of a shell that is not there in one without a terminal."""
FLAGS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}
LINES = {
    "a command": ("crossllm cach", {"cache"}),
    "a command below": ("crossllm cache ver", {"verify"}),
    "a flag": ("train --bl", {"--blocks"}),
    "a flag of another": ("embed run --bat", {"--batch-tokens"}),
    "a choice": ("embed run --on-bad ''", {"error", "skip"}),
    "a choice begun": ("crossllm embed run --modality p", {"protein"}),
    "after what is wrong": ("embed run --quiet --dtype float16 --dtype float16 --mod", {"--modality"}),
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our programs, and a folder with the script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for name in PROGRAMS:
        function = "main" if name == "crossllm" else name
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{sys.executable}\nfrom crossllm.pipeline.main import {function}\n{function}()\n")
        program.chmod(0o755)
    for shell in SHELLS:
        done = subprocess.run([folder / "bin" / "crossllm", "completion", shell], capture_output=True, check=True)
        assert not done.stderr
        (folder / f"script.{shell}").write_bytes(done.stdout)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", LINES)
def test_a_shell_completes(shell: str, name: str, scripts: Path) -> None:
    if (found := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here")
    line, offered = LINES[name]
    text = f"{BEFORE.get(shell, '')}\n. {scripts}/script.{shell}\n{ASK[shell]}\ncrossllm_ask {line}\n"
    env = os.environ | {"PATH": f"{scripts / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(scripts)}
    done = subprocess.run([found, *FLAGS[shell], "-c", text], capture_output=True, text=True, env=env, timeout=60)
    assert {word.partition("\t")[0].partition(":")[0] for word in done.stdout.splitlines()} == offered, done.stderr
    assert not done.stderr


@pytest.mark.slow
def test_an_answer_imports_nothing_heavy() -> None:
    for variable, module, name, words in (
        ("_CROSSLLM_COMPLETE", "crossllm.pipeline.cli", "crossllm", "crossllm "),
        ("_CROSSLLM_COMPLETE", "crossllm.pipeline.cli", "crossllm", "crossllm data import --"),
        ("_TRAIN_COMPLETE", "crossllm.pipeline.cli_train", "train", "train --"),
        ("_EMBED_COMPLETE", "crossllm.embed.cli", "embed", "embed run --"),
    ):
        code = (
            f"import sys, {module}\nfrom crossllm.cache.console.completion import answer_shell\n"
            f"assert answer_shell({module}.{name}) == 0\n"
            "print('LOADED', *sorted({'numpy', 'torch', 'numba', 'h5py', 'zarr', 'rdkit', 'scipy'} & set(sys.modules)))"
        )
        asked = {variable: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        env = os.environ | asked
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "LOADED"
        assert len(done.stdout.splitlines()) > 3


def test_a_variable_that_is_no_script_s_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TRAIN_COMPLETE", "yes")
    monkeypatch.setattr(sys, "argv", ["train", "--version"])
    with pytest.raises(SystemExit) as left:
        runner.run(train)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "_TRAIN_COMPLETE: is for the scripts of `crossllm completion`" in line


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._run(crossllm, ["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err
