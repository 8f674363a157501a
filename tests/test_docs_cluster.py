"""The job scripts of docs/cluster.md, as they are printed: run by a stand-in that sets what a scheduler sets."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import ROOT
from docs_pages import Block, blocks_of, commands_of, parse
from zygote import ENTRY

from crossllm.cache import CacheReader, choose_recipe
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "cluster.md"
JOBS = [block for block in blocks_of(PAGE) if block.text.startswith("#!/bin/bash")]


def job(*words: str) -> Block:
    """The only script of the page that holds all of these words."""
    (found,) = [block for block in JOBS if all(word in block.text for word in words)]
    return found


def line_with(words: str) -> Block:
    """The block of a command that is no script."""
    (found,) = [
        block for block in blocks_of(PAGE) if block.info == "bash" and block not in JOBS and words in block.text
    ]
    return found


def tasks_of(block: Block) -> range:
    """Numbers of the tasks that a script's first lines ask for."""
    found = re.search(r"(?:--array=|embed\[|-J )(\d+)-(\d+)", block.text)
    assert found is not None
    return range(int(found[1]), int(found[2]) + 1)


SBATCH = r"""
echo "$@" >> sbatch.txt
for file in "$@"; do :; done
set -- $(sed -n 's/^#SBATCH --array=\([0-9]*\)-\([0-9]*\)$/\1 \2/p' "$file")
for number in $(seq "${1:-0}" "${2:-0}"); do
    [ "$1" ] && export SLURM_ARRAY_TASK_ID=$number SLURM_ARRAY_TASK_COUNT=$(($2 - $1 + 1)) SLURM_ARRAY_TASK_MIN=$1 \
        SLURM_ARRAY_TASK_MAX=$2 SLURM_ARRAY_TASK_STEP=1
    bash "$file" > /dev/null || exit 1
done
echo 77
"""
"""Runs a script at once, all tasks of its array one after the other, and says a job's number."""


class Cluster:
    """A folder in which the page's programs are found, and scripts run as tasks of an array."""

    def __init__(self, folder: Path) -> None:
        self.folder, programs = folder, folder / "bin"
        programs.mkdir()
        lines = {"srun": 'exec "$@"', "scontrol": f'echo "$@" >> {shlex.quote(str(folder / "scontrol.txt"))}'}
        lines |= {"sbatch": SBATCH, "dask": f'exec {shlex.quote(sys.executable)} -m dask "$@"'}
        for name in ("embed", "crossllm"):
            lines[name] = f'exec {shlex.quote(sys.executable)} -c "{ENTRY[name]}" "$@"'
        for name, line in lines.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)

    def start(self, block: Block, variables: dict[str, object]) -> subprocess.Popen[str]:
        (self.folder / "job").write_text(block.text)
        environment = {name: value for name, value in os.environ.items() if "ARRAY" not in name}
        environment |= {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        environment |= {name: str(value) for name, value in variables.items()}
        return subprocess.Popen(
            ["bash", "job"], cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, block: Block, variables: dict[str, object]) -> str:
        """What it printed; it ends well."""
        child = self.start(block, variables)
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        return out

    def rows(self, cache: str) -> dict[bytes, bytes]:
        reader = CacheReader(self.folder / cache, choose_recipe(self.folder / cache, "rna", None))
        return {key: reader[key].tobytes() for key in reader}


def slurm(number: int, tasks: range) -> dict[str, object]:
    values = {"ID": number, "COUNT": len(tasks), "MIN": tasks[0], "MAX": tasks[-1], "STEP": 1}
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in values.items()} | {"SLURM_ARRAY_JOB_ID": 77}


@pytest.fixture
def cluster(tmp_path: Path, rng: np.random.Generator) -> Cluster:
    sequences = ("".join(rng.choice([*"ACGU"], rng.integers(1, 80))) for _ in range(40))
    (tmp_path / "rna.fasta").write_text("".join(f">r{n}\n{sequence}\n" for n, sequence in enumerate(sequences)))
    run(RunOptions("rna", tmp_path / "rna.fasta", tmp_path / "whole", "profile", quiet=True))
    return Cluster(tmp_path)


def test_slurms_array_and_a_part_of_it_again(cluster: Cluster) -> None:
    script = job("scontrol")
    tasks = tasks_of(script)
    for number in [*tasks][:-1]:
        cluster.run(script, slurm(number, tasks))
    said = cluster.run(line_with("cache status"), {})
    left = re.search(r"--array=(\d+), with `embed run … --num-shards 3 --first-index 0`", said)
    assert left is not None, said
    number = int(left[1])
    cluster.run(script, slurm(number, range(number, number + 1)))
    assert cluster.rows("cache/rna") == cluster.rows("whole")
    assert "nothing to embed" in cluster.run(line_with("--from-cache"), {})
    assert cluster.rows("cache/new") == cluster.rows("whole")


def test_slurms_signal_has_the_task_queued_again(cluster: Cluster) -> None:
    (cluster.folder / "rna.fasta").write_text("".join(f">x{n}\n{'ACGU' * (5000 + n)}\n" for n in range(120)))
    script = job("scontrol")
    child = cluster.start(script, slurm(1, tasks_of(script)))
    deadline = time.monotonic() + 60
    while not [*cluster.folder.glob("cache/rna/embeddings/rna/*/segments/*/rows/c/0/0")]:
        assert child.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    # As SLURM does, the step alone gets it: the program, not the shell that waits for it.
    (step,) = psutil.Process(child.pid).children()
    step.send_signal(signal.SIGUSR1)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143, err
    assert (cluster.folder / "scontrol.txt").read_text() == "requeue 77_1\n"
    kept = len(cluster.rows("cache/rna"))
    assert kept >= 1
    assert f"{kept} were there" in cluster.run(script, slurm(1, tasks_of(script)))


def test_a_cache_for_each_task_merged(cluster: Cluster) -> None:
    for name, script in (("parts", job("parts/$SLURM_ARRAY_TASK_ID")), ("merge", job("cache merge"))):
        (cluster.folder / f"{name}.sbatch").write_text(script.text)
    cluster.run(line_with("sbatch --dependency"), {})
    submitted = (cluster.folder / "sbatch.txt").read_text().splitlines()
    assert submitted == ["--parsable parts.sbatch", "--dependency=afterok:77 merge.sbatch"]
    assert cluster.rows("cache/merged") == cluster.rows("whole")


def test_lsfs_array(cluster: Cluster) -> None:
    script = job("#BSUB")
    for number in (tasks := tasks_of(script)):
        cluster.run(script, {"LSB_JOBINDEX": number, "LSB_JOBINDEX_END": tasks[-1]})
    assert cluster.rows("cache/rna") == cluster.rows("whole")


def test_pbss_array(cluster: Cluster) -> None:
    script = job("#PBS")
    for number in tasks_of(script):
        cluster.run(script, {"PBS_ARRAY_INDEX": number})
    assert cluster.rows("cache/rna") == cluster.rows("whole")


def test_a_dask_cluster_in_one_job(cluster: Cluster) -> None:
    cluster.run(job("dask scheduler"), {"SLURM_JOB_ID": 77, "SLURM_CPUS_PER_TASK": 1})
    assert not (cluster.folder / "scheduler-77.json").exists(), "the scheduler has ended, and taken it away"
    assert cluster.rows("cache/rna") == cluster.rows("whole")


def test_every_command_of_the_page_can_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the blocks that need weights, GPUs or several machines, and are not run, too."""
    monkeypatch.chdir(tmp_path)
    Path("scheduler.json").write_text('{"address": "tcp://10.0.0.1:8786"}')
    found = [c for block in blocks_of(PAGE) if block.info in ("bash", "sh") for c in commands_of(block) if c.in_process]
    assert len(found) >= 7
    for command in found:
        parse(command.words).close()


def test_every_script_is_run_here() -> None:
    assert len(JOBS) == 6
