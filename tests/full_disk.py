"""`embed run` where the space is really short: `unshare -rm python full_disk.py FOLDER tmpfs|limit BYTES…`

`tmpfs`: on a file system of so many bytes, which is then made larger.  `limit`: where no file may grow beyond so many.
One line of JSON a size: the exit code and standard error of the run, then the same of the same command with space.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from fault_operations import contents, damage

from crossllm.cache.console import runner
from crossllm.embed.cli import embed as program
from crossllm.embed.run import run as run_module

ENOUGH = 64 << 20
SEQUENCES, LENGTH, SEGMENT_BYTES = 12, 3000, 1 << 20


def write_long_input(path: Path) -> Path:
    """About 4 MB of rows."""
    rng = np.random.default_rng(0)
    path.write_text("".join(f">s{n}\n{''.join(rng.choice(list('ACGU'), LENGTH))}\n" for n in range(SEQUENCES)))
    return path


def _run(fasta: Path, cache: Path, acks: Path, limit: int | None) -> tuple[int, str]:
    """Exit code and standard error of `embed run` in a child."""
    with tempfile.TemporaryFile("w+") as errors, acks.open("a") as acknowledged:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            arguments = [
                "run",
                "--modality",
                "rna",
                "--encoder",
                "profile",
                "--input",
                fasta,
                "--cache",
                cache,
                "--quiet",
            ]
            arguments += ["--segment-bytes", SEGMENT_BYTES, "--ack-fd", acknowledged.fileno()]
            run_module.require_space = lambda *_: None  # there was space when it began
            try:
                runner.run(program, list(map(str, arguments)))
            except SystemExit as done:
                os._exit(int(done.code or 0))
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return code, errors.read()


def _report(fasta: Path, room: Path, disk: Path, mode: str, size: int) -> dict[str, object]:
    cache, acks = disk / "cache", room / f"acks-{size}"
    if mode == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
    code, errors = _run(fasta, cache, acks, size if mode == "limit" else None)
    held = {name.split()[1] for name in contents(cache)}
    acked = set(acks.read_text().split())
    report = {"size": size, "code": code, "errors": errors, "acked": len(acked), "lost": len(acked - held)}
    report["damage"] = damage(cache)
    report["held"] = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) if cache.exists() else 0
    if mode == "tmpfs":
        subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", disk], check=True)
    report["again"], _ = _run(fasta, cache, acks, None)
    report["complete"] = len(contents(cache)) == SEQUENCES and not damage(cache)
    if mode == "tmpfs":
        subprocess.run(["umount", disk], check=True)
    else:
        subprocess.run(["rm", "-r", cache], check=True)
    return report


if __name__ == "__main__":
    room, mode = Path(sys.argv[1]), sys.argv[2]
    disk = room / "disk"
    disk.mkdir()
    fasta = write_long_input(room / "in.fasta")
    for size in map(int, sys.argv[3:]):
        print(json.dumps(_report(fasta, room, disk, mode, size)), flush=True)
