"""Records and keys, and the store of per-residue embeddings.  Imports nothing of ours and no torch.

A cache is a folder (docs/format.md); one sequence goes `read_records` → `CacheWriter.add` → disk → `CacheReader[key]`.
Rooms, from the top floor down: `maintenance` (verify, repair, compact …), `store` (segments, commits), `records`
(FASTA, SMILES, keys), `remote` (object stores), `console` (messages, exit codes), `files` (system calls).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossllm.cache.errors import CacheCorrupt, Conflict, CrossLLMError, InputError, PartlyDone, RowsRefused
    from crossllm.cache.records.id_table import read_table
    from crossllm.cache.records.molecules import canonical_smiles
    from crossllm.cache.records.reading import read_records
    from crossllm.cache.records.record import Record, key_of, normalise, record_of
    from crossllm.cache.records.record_list import Records
    from crossllm.cache.remote.opening import open_cache
    from crossllm.cache.store.reader import CacheReader
    from crossllm.cache.store.recipe import Recipe, choose_recipe, list_recipes
    from crossllm.cache.store.writer import CacheWriter

__all__ = [
    "CacheCorrupt",
    "CacheReader",
    "CacheWriter",
    "Conflict",
    "CrossLLMError",
    "InputError",
    "PartlyDone",
    "Recipe",
    "Record",
    "Records",
    "RowsRefused",
    "canonical_smiles",
    "choose_recipe",
    "key_of",
    "list_recipes",
    "normalise",
    "open_cache",
    "read_records",
    "read_table",
    "record_of",
]
_HOMES = {
    "errors": ("CacheCorrupt", "Conflict", "CrossLLMError", "InputError", "PartlyDone", "RowsRefused"),
    "records.id_table": ("read_table",),
    "records.molecules": ("canonical_smiles",),
    "records.reading": ("read_records",),
    "records.record": ("Record", "key_of", "normalise", "record_of"),
    "records.record_list": ("Records",),
    "remote.opening": ("open_cache",),
    "store.reader": ("CacheReader",),
    "store.recipe": ("Recipe", "choose_recipe", "list_recipes"),
    "store.writer": ("CacheWriter",),
}
"""Module → its public names, imported when one is asked for: `--help` needs no numpy."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"crossllm.cache.{module}"), name)
    raise AttributeError(f"module 'crossllm.cache' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
