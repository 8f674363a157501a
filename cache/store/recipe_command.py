"""What a user types to have the rows of a recipe made: one place, for every message that says so."""

from __future__ import annotations

import shlex
from pathlib import Path

from crossllm.cache.records.modality import INPUT_NAMES
from crossllm.cache.store.recipe import IMPORTED, Recipe


def command_for(cache_dir: Path, recipe: Recipe) -> str:
    """The command that makes what a recipe of this cache lacks; FILE stands for what only the user knows."""
    own = cache_dir / INPUT_NAMES[recipe.modality]
    source = shlex.quote(str(own)) if own.exists() else "FILE"
    modality, cache = f"--modality {recipe.modality}", f"--cache {shlex.quote(str(cache_dir))}"
    if recipe.tokenizer == IMPORTED:
        return f"crossllm cache import {modality} --input FILE --fasta {source} {cache}"
    parts = [f"embed run {modality} --encoder {recipe.encoder} --input {source} {cache}"]
    if recipe.weights is not None:
        parts += ["--weights FILE", f"--compute {recipe.compute}"]
    parts.append(f"--dtype {recipe.dtype}")
    if recipe.layer is not None:
        parts.append(f"--layer {recipe.layer}")
    if recipe.long != "whole":
        parts.append(f"--long {recipe.long.partition(':')[0]}")
    parts += [f"--option {shlex.quote(f'{key}={value}')}" for key, value in recipe.options.items()]
    return " ".join(parts)
