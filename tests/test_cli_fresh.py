"""Each command in a Python started anew: it imports what it needs by itself, and nothing on the way warns.

Other tests run commands in forks of a process that has all modules imported (`zygote`), which is to make no difference.
"""

from __future__ import annotations

import pytest
from conftest import Program

from crossllm.pipeline.training.inputs import TrainOptions

RNA, PROTEIN = ("--modality", "rna"), ("--modality", "protein")
COMMANDS = [
    ("crossllm", "data", "demo", "--cache", "large"),
    ("crossllm", "data", "import", "--a", "rna=demo/rna.fasta", "--b", "protein=demo/protein.fasta",
     "--pairs", "demo/pairs.tsv", "--cache", "d"),
    ("embed", "run", *RNA, "--input", "d/rna.fasta", "--encoder", "profile"),
    ("crossllm", "embed", "run", *PROTEIN, "--input", "d/protein.fasta", "--encoder", "profile"),
    ("embed", "models"),
    ("crossllm", "cache", "info", "--cache", "d"),
    ("crossllm", "cache", "verify", "--cache", "d", "--data"),
    ("crossllm", "cache", "compact", "--cache", "d"),
    ("crossllm", "cache", "gc", "--cache", "d"),
    ("crossllm", "cache", "repair", "--cache", "d"),
    ("crossllm", "cache", "export", *RNA, "--format", "hdf5", "--cache", "d", "--output", "rna.h5"),
    ("crossllm", "cache", "import", *RNA, "--input", "rna.h5", "--fasta", "d/rna.fasta", "--cache", "e"),
    ("crossllm", "cache", "merge", "d", "--cache", "f"),
    ("train", "--cache", "d", "--folds", "2", "--epochs", "1", "--d-model", "8"),
]  # fmt: skip


def test_every_command_starts_anew(small: TrainOptions, fresh_program: Program) -> None:
    assert small.cache_dir.name == "demo"
    for command in COMMANDS:
        done = fresh_program(*command)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout, command


@pytest.mark.parametrize(
    "command", ["crossllm --help", "crossllm nothing", "embed models --json", "train --cache none"]
)
def test_a_forked_program_ends_as_one_started_anew(command: str, program: Program, fresh_program: Program) -> None:
    forked, anew = (run(*command.split()) for run in (program, fresh_program))
    assert (forked.returncode, forked.stdout, forked.stderr) == (anew.returncode, anew.stdout, anew.stderr)
