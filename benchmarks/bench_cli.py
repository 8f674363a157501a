"""How long `--help` and a shell's Tab take, beside `python -c 'import click'` in the same run: the least any can take.

    python benchmarks/bench_cli.py [--json FILE]

Medians of ten, all in turn; the goal is 3 times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 10
BIN = Path(sys.executable).parent
ASKED = ["env", "_CROSSLLM_COMPLETE=bash_complete"]
"""As a shell's script asks for the next word."""
COMMANDS = {
    "import click": [sys.executable, "-c", "import click"],
    "crossllm": [BIN / "crossllm"],
    "crossllm --help": [BIN / "crossllm", "--help"],
    "embed --help": [BIN / "embed", "--help"],
    "embed run --help": [BIN / "embed", "run", "--help"],
    "train --help": [BIN / "train", "--help"],
    "crossllm cache --help": [BIN / "crossllm", "cache", "--help"],
    "crossllm data --help": [BIN / "crossllm", "data", "--help"],
    "a Tab after crossllm": [*ASKED, "COMP_WORDS=crossllm ", "COMP_CWORD=1", BIN / "crossllm"],
    "a Tab after a flag's --": [*ASKED, "COMP_WORDS=crossllm data import --", "COMP_CWORD=3", BIN / "crossllm"],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}  # the first fills the page cache
    least = medians["import click"]
    for name, median in medians.items():
        print(f"{name:24}{1000 * median:8.1f} ms{median / least:7.2f} ×")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": ROUNDS, "seconds": medians}, indent=1))


if __name__ == "__main__":
    main()
