"""`leaks.json` in six lines, as the table of a run and `crossllm data leaks` print it."""

from __future__ import annotations

from typing import Any

SEEN = {"C1": "both seen", "C2a": "new {a}", "C2b": "new {b}", "C3": "both new"}
"""Class of a test pair → in words."""


def leak_lines(leaks: dict[str, Any]) -> list[str]:
    """Six lines; what the numbers mean stands in docs/outputs.md."""
    a, b = leaks["modalities"]
    names = [f"{a} A", f"{b} B"] if a == b else [a, b]
    counts, data = leaks["counts"], leaks["dataset"]
    measure = "AUROC" if leaks["task"] == "classification" else "Spearman"
    return [
        f"by sequence: {classes(leaks['by_sequence'], names)}",
        f"by cluster: {classes(leaks['by_cluster'], names)}",
        f"nearest {names[0]} {bins(leaks['nearest_a'])}",
        f"nearest {names[1]} {bins(leaks['nearest_b'])}",
        f"same pair trained {leaks['same_sequence_pair']:.1%}, of their clusters {leaks['same_cluster_pair']:.1%}; "
        f"rows repeated {data['repeated']}, contradictory {data['contradictory']}",
        f"counts alone: {measure} {_number(counts['by_id'])} by id, {_number(counts['by_sequence'])} by sequence",
    ]


def classes(shares: dict[str, float], names: list[str]) -> str:
    """Share of each class of pairs, by the names of both sides."""
    return ", ".join(f"{text.format(a=names[0], b=names[1])} {shares[name]:.1%}" for name, text in SEEN.items())


def bins(shares: dict[str, float]) -> str:
    """Bins that hold a pair: `100%: 96.1%, ≥90%: 1.2%, none alike: 2.7%`, each an identity and its share."""
    words = {"1": "100%", "0": "none alike"}
    return ", ".join(
        f"{words.get(bound, f'≥{float(bound):.0%}')}: {share:.1%}" for bound, share in shares.items() if share > 0
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
