"""Every system of the paper's table on the same folds: one markdown table, by one command that goes on where it was.

    python benchmarks/systems_table.py --data DATA --work WORK                 # RPI1460 and RPI488, three seeds
    python benchmarks/systems_table.py --data DATA --work WORK --quick         # one seed, the fast systems
    python benchmarks/systems_table.py --work WORK --sets rpi1460              # WORK/cache/rpi1460 is there already

DATA and WORK as for `reproduce.py`, whose caches these are.  Every cell is a run of
`train --system NAME --baselines none --resume` in WORK/systems/SET/SPLIT/NAME; what is finished is read.
WORK/systems.md is written after each run.

Seconds are those of fitting (`usage.json`), of all seeds together ÷ seeds; nobody else should be at work then.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from reproduce import SETS, TRIOS, prepared, run

from crossllm.pipeline.systems.registry import SYSTEMS

SPLITS = {"given": ("--split", "given"), "cold-both": ("--split", "cold-both"), "random": ()}
RNA_PROTEIN = [name for name, known in SETS.items() if (known.a, known.b) == ("rna=rna.fasta", "protein=protein.fasta")]
GIVEN = ("rpi1460", "rpi1460-swrandom", "rpi1807")
"""Sets with folds of their own."""
FAST = ("kmer_trees", "rpiseq_rf")
PUBLISHED = {
    ("rpi1460", "given", "crossllm_mamba"): (0.892, "its paper, best epoch on the scored pairs"),
    ("rpi1460", "given", "rpiseq_rf"): (0.57, "as BioLLMNet's table has it"),
    ("rpi1460", "given", "ipminer"): (0.52, "as BioLLMNet's table has it"),
    ("rpi1460", "given", "cfrp"): (0.63, "as BioLLMNet's table has it"),
    ("rpi1460", "given", "rpiter"): (0.412, "as BioLLMNet's table has it"),
    ("rpi1460", "given", "lpi_csffr"): (0.656, "its own folds"),
    ("rpi1460", "given", "rnaincoder"): (0.76, "as BioLLMNet's table has it"),
    ("rpi1460", "given", "biollmnet"): (0.848, "its paper, best epoch on the scored fold"),
    ("rpi488", "random", "rpiter"): (0.793, "its paper"),
}
"""Set, split, system → MCC, and where it stands.  Few of them were made on these folds without a look at test pairs."""


class Cell(NamedTuple):
    """A system on a set and a split."""

    dataset: str
    split: str
    system: str


class Found(NamedTuple):
    """What it gave: metric → mean, deviation over folds, deviation over seeds."""

    metrics: dict[str, Any]
    seconds: float
    """Of one seed's folds."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the public sets; not needed where the caches are made")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=RNA_PROTEIN, default=["rpi1460", "rpi488"])
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["given", "cold-both"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"one seed, of the systems {' and '.join(FAST)} alone")
    asked = parser.parse_args(arguments)
    systems = [name for name in asked.systems if not asked.quick or name in FAST]
    seeds = 1 if asked.quick else asked.seeds
    done: dict[Cell, Found] = {}
    for dataset in asked.sets:
        cache = cache_of(dataset, asked.data, asked.work)
        for split in dict.fromkeys(_split_of(dataset, name) for name in asked.splits):
            for system in systems:  # one after the other: seconds are measured
                cell = Cell(dataset, split, system)
                done[cell] = trained(cell, cache, asked.work, seeds)
                (asked.work / "systems.md").write_text(table(done, seeds))
    print(table(done, seeds))


def _split_of(dataset: str, split: str) -> str:
    """Random folds, where a set comes with none."""
    return "random" if split == "given" and dataset not in GIVEN else split


def cache_of(dataset: str, data: Path | None, work: Path) -> Path:
    """The set's cache, with `profile` rows; made from DATA where it is not there."""
    if data is not None:
        return prepared(dataset, data, work, TRIOS["profile"])
    cache = work / "cache" / dataset
    if not (cache / "dataset.toml").exists():
        sys.exit(f"{cache}: no dataset there; give --data to make it")
    return cache


def trained(cell: Cell, cache: Path, work: Path, seeds: int) -> Found:
    """A finished run of so many seeds; what is there is not trained again."""
    out = work / "systems" / cell.dataset / cell.split / cell.system
    flags = ("--system", cell.system, *SPLITS[cell.split], "--seeds", str(seeds))
    # --resume takes the folder's own settings, and flags hold it to them.
    text = run("train", "--cache", cache, "--out", out, "--baselines", "none", "--resume", "--json", *flags)
    used = [json.loads(path.read_text())["seconds"] for path in sorted(out.rglob("usage.json"))]
    return Found(json.loads(text)["model"], sum(used) / seeds)


def table(done: dict[Cell, Found], seeds: int) -> str:
    """Markdown, a line a cell.  ± is the deviation of seeds where there are several, else that of folds."""
    lines = [
        f"± is the deviation over {f'the means of {seeds} seeds' if seeds > 1 else 'folds, of one seed'}.",
        "",
        "| set, split | system | MCC | AUROC | seconds | published MCC | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell, found in done.items():
        mcc = found.metrics["mcc"]["mean"]
        published, where = PUBLISHED.get(cell, (None, ""))
        told = "–" if published is None else f"{published:.3f} ({where})"
        ratio = "–" if published is None or mcc is None else f"{mcc / published:.2f}"
        numbers = (_number(found.metrics[name]) for name in ("mcc", "auroc"))
        cells = (f"{cell.dataset}, {cell.split}", f"`{cell.system}`", *numbers, f"{found.seconds:.0f}", told, ratio)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(found: dict[str, Any]) -> str:
    """`0.612 ± 0.028`, of one seed or of several."""
    spread = found["std_over_seeds"] if "std_over_seeds" in found else found["std"]
    if found["mean"] is None:
        return "–"
    return f"{found['mean']:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


if __name__ == "__main__":
    main()
