"""The one place where `pipeline` asks `embed` for rows: of sequences that a run's cache lacks, and only then.

Nothing of `embed` is imported before rows are missing, and so no encoder and none of its libraries.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from crossllm.cache.records.record_list import Records
from crossllm.cache.store.recipe import Recipe


class Asked(NamedTuple):
    """Sequences that lack rows, and where to put these."""

    cache_dir: Path
    """Whose embeddings are written."""
    recipe: Recipe
    records: Records
    """Distinct sequences, one record each."""
    source: Path
    """File that they come from, for messages."""
    weights: Path | None
    """None: the pulled weights."""
    flag: str
    """That names other weights, for messages."""


def embed(asked: Asked, *, device: str = "cpu", quiet: bool = False) -> dict[bytes, str]:
    """Embed what is asked for; key → why it has no rows, of those that could not be embedded.

    Raises:
        InputError, Conflict, OSError: as `crossllm.embed.run.by_recipe.embed_by_recipe`.
    """
    from crossllm.embed.run.by_recipe import embed_by_recipe

    return embed_by_recipe(
        asked.cache_dir,
        asked.recipe,
        asked.records,
        source=asked.source,
        weights=asked.weights,
        flag=asked.flag,
        device=device,
        quiet=quiet,
    ).failures
