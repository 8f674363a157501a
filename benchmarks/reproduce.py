"""The paper's three tasks, from the public sets to one table: import, embed, train, every split side by side.

    python benchmarks/reproduce.py --data DATA --work WORK                     # the profile encoders, on any CPU
    python benchmarks/reproduce.py --data DATA --work WORK --trio paper        # ESM-2, RiNALMo and Mole-BERT

DATA holds the sets in the layout of `docs/RESULTS.md`: `rpi1460/rna.fasta`, `protein.fasta`, `pairs.tsv`, ….  Stopped
and started again it goes on: every step is a command that keeps what is done.  WORK/results.md is the table.

Published weights are needed for `--trio paper` (`embed pull`), or named one by one: `--rna rinalmo-giga=FILE`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

TRIOS = {
    "profile": {"rna": "profile", "protein": "profile", "molecule": "profile"},
    "paper": {"rna": "rinalmo-giga", "protein": "esm2-650m", "molecule": "molebert"},
}
COLD = ("--split", "cold-both")
CLUSTER = ("--split", "cluster")
PAPER = ("--protocol", "paper")


class Set(NamedTuple):
    """A dataset: its folder in DATA, its sides, its pairs."""

    folder: str
    a: str
    b: str
    pairs: str = "pairs.tsv"


class Row(NamedTuple):
    """A run."""

    dataset: str
    name: str
    flags: tuple[str, ...]
    published: str = ""
    """The number that the literature has for it, or for what comes nearest."""


SETS = {
    "rpi1460": Set("rpi1460", "rna=rna.fasta", "protein=protein.fasta"),
    "rpi1460-swrandom": Set("rpi1460", "rna=rna.fasta", "protein=protein.fasta", "pairs.swrandom.tsv"),
    "rpi488": Set("rpi488", "rna=rna.fasta", "protein=protein.fasta"),
    "rpi1807": Set("rpi1807", "rna=rna.fasta", "protein=protein.fasta"),
    "rsim": Set("rsim", "rna=rna.fasta", "molecule=molecules.smi"),
    "plant_mlnc": Set("plant_mlnc", "rna=rna.fasta", "rna=rna.fasta"),
}
FUSED = "CrossLLM-Mamba 0.892"
TRANSFERS = {
    ("ath", "gma"): "75.5 %", ("ath", "mtr"): "79.6 %", ("gma", "ath"): "70.9 %",
    ("gma", "mtr"): "", ("mtr", "ath"): "67.8 %", ("mtr", "gma"): "",
}  # fmt: skip
"""Train, test → accuracy of the best published model that was found."""
ROWS = [
    Row("rpi1460", "given", ("--split", "given"), "LPI-CSFFR 0.656"),
    Row("rpi1460", "paper", PAPER, FUSED),
    Row("rpi1460", "cold-both", COLD),
    Row("rpi1460", "cluster", CLUSTER),
    Row("rpi1460-swrandom", "given", ("--split", "given"), "LPI-CSFFR 0.683"),
    Row("rpi488", "random", (), "RPITER 0.793"),
    Row("rpi488", "paper", PAPER),
    Row("rpi488", "cold-both", COLD),
    Row("rpi488", "cluster", CLUSTER),
    Row("rpi1807", "given", ("--split", "given"), "RPITER 0.936"),
    Row("rpi1807", "cold-both", COLD),
    Row("rpi1807", "cluster", CLUSTER),
    Row("rsim", "random", ("--by", "subtype"), "DeepRSMA 0.784"),
    Row("rsim", "paper", ("--by", "subtype", *PAPER), "riboswitch 0.956, repeats 0.952"),
    Row("rsim", "cold-both", COLD),
    Row("rsim", "cluster", CLUSTER),
    *(
        Row(
            "plant_mlnc",
            f"{train}→{test}{' paper' if protocol else ''}",
            ("--split", "transfer", "--train-on", f"species={train}", "--test-on", f"species={test}", *protocol),
            f"best accuracy {published}" if published else "",
        )
        for (train, test), published in TRANSFERS.items()
        for protocol in ((), PAPER)
    ),
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trio", choices=TRIOS, default="profile")
    for modality in TRIOS["paper"]:
        parser.add_argument(f"--{modality}", metavar="ENCODER[=WEIGHTS]", help="in place of the trio's")
    parser.add_argument("--only", nargs="*", metavar="SET", choices=SETS, help="these sets alone")
    parser.add_argument("--rows", nargs="*", metavar="NAME", help="these rows alone: given, cluster, ath→mtr, …")
    parser.add_argument("--train", default="", metavar="FLAGS", help="further flags of every `train`")
    asked = parser.parse_args(arguments)
    encoders = {modality: getattr(asked, modality) or name for modality, name in TRIOS[asked.trio].items()}
    done = []
    for name in asked.only or SETS:
        if not (asked.data / SETS[name].folder).is_dir():
            print(f"{name}: not in {asked.data}; left out", file=sys.stderr)
            continue
        cache = prepared(name, asked.data, asked.work, encoders)
        for row in (row for row in ROWS if row.dataset == name and (not asked.rows or row.name in asked.rows)):
            done.append((row, trained(row, cache, asked.work, shlex.split(asked.train))))
            (asked.work / "results.md").write_text(table(done))
    print(table(done))


def prepared(name: str, data: Path, work: Path, encoders: dict[str, str]) -> Path:
    """The cache of a set, its pairs imported and every sequence embedded."""
    chosen, cache = SETS[name], work / "cache" / name
    folder = data / chosen.folder
    sides = {flag: side.replace("=", f"={folder}/", 1) for flag, side in (("--a", chosen.a), ("--b", chosen.b))}
    run("crossllm", "data", "import", *(x for side in sides.items() for x in side), "--pairs", folder / chosen.pairs,
        "--cache", cache, "--on-bad", "skip")  # fmt: skip
    for modality, file in dict(side.split("=") for side in (chosen.a, chosen.b)).items():
        encoder, _, weights = encoders[modality].partition("=")
        run("embed", "run", "--modality", modality, "--input", cache / file, "--cache", cache, "--encoder", encoder,
            *(("--weights", weights) if weights else ()))  # fmt: skip
    return cache


def trained(row: Row, cache: Path, work: Path, flags: list[str]) -> dict[str, Any]:
    """The metrics of a run."""
    out = work / "runs" / row.dataset / row.name.replace("→", "-").replace(" ", "-")
    return json.loads(run("train", "--cache", cache, "--out", out, "--resume", "--json", *row.flags, *flags))


def run(*command: str | Path) -> str:
    """The standard output of one of the project's programs; what it says on standard error is seen."""
    texts = [*map(str, command)]
    program = [sys.executable, "-m", "crossllm", *(texts[1:] if texts[0] == "crossllm" else texts)]
    print("$", shlex.join(texts), file=sys.stderr)
    return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout


def table(done: list[tuple[Row, dict[str, Any]]]) -> str:
    """Markdown, a line a run: the model, each baseline's mean, what was unseen, and what was published."""
    lines = [
        "| set, split | tested | model | AUROC | baselines | unseen by cluster | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, metrics in done:
        first, second = ("mcc", "auroc") if metrics["task"] == "classification" else ("pearson", "spearman")
        if row.dataset == "plant_mlnc":
            first = "accuracy"
        model = metrics["model"]
        spread = "" if model[first]["std"] is None else f" ± {model[first]['std']:.3f}"
        label = " (optimistic)" if metrics.get("optimistic") else ""
        own = f"{first} {_number(model[first]['mean'])}{spread}{label}"
        others = ", ".join(f"{name} {_number(found[first]['mean'])}" for name, found in metrics["baselines"].items())
        unseen = metrics["leaks"]["by_cluster"]
        classes = f"C1 {unseen['C1']:.0%}, C2 {unseen['C2a'] + unseen['C2b']:.0%}, C3 {unseen['C3']:.0%}"
        cells = (
            f"{row.dataset}, {row.name}", metrics["tested"], own, f"{second} {_number(model[second]['mean'])}", others,
            classes, row.published,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
