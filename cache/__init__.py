"""Records and keys, and the store of per-residue embeddings.  Imports nothing of ours and no torch.

A cache is a folder (docs/format.md); one sequence goes `read_records` → `CacheWriter.add` → disk → `CacheReader[key]`.
Rooms, from the top floor down: `maintenance` (verify, repair, compact …), `store` (segments, commits), `records`
(FASTA, SMILES, keys), `console` (messages, exit codes), `files` (system calls).
"""

from crossllm.cache.errors import CacheCorrupt, Conflict, CrossLLMError, InputError, PartlyDone, RowsRefused
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.molecules import canonical_smiles
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import Record, key_of, normalise, record_of
from crossllm.cache.records.record_list import Records
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
    "read_records",
    "read_table",
    "record_of",
]
