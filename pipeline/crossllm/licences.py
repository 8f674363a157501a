"""Under which licence the published weights of each encoder stand: of its list, and of a model card."""

from __future__ import annotations

NO_WEIGHTS = "none needed"
LICENCES = {
    "profile": NO_WEIGHTS,
    "kmer": NO_WEIGHTS,
    "morgan": NO_WEIGHTS,
    "rnabert": "none stated in the repository",
    "rnafm": "MIT",
    "rinalmo": "CC BY 4.0",
    "esm2": "MIT",
    "unirep": "CC BY-NC 4.0",
    "gnn-gcn": "MIT",
    "molebert": "none stated in the repository; MIT in pretrain-gnns",
}
"""Encoder, or a family of them (`esm2-650m` is one of `esm2`) → licence."""


def licence_of(encoder: str) -> str | None:
    """Of an encoder by its name; None of one that is not ours, as rows that were imported have."""
    return next((text for name, text in LICENCES.items() if encoder == name or encoder.startswith(f"{name}-")), None)
