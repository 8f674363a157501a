"""A recipe: everything that one chooses and that changes a number in an embedding; another digest, another folder.

On a CPU, rows of one digest are the same to the bit where `compute` is float32, whatever the threads and the batches,
with AVX-512 or AMX (with AVX2 alone: 1.6e-6 of the largest value), but for a batch of a single token and for UniRep's
steps, whose rounding moves with what runs together.  In bfloat16 they are the same within its rounding
only: a product's row may then depend on how many rows are in the call, so on `--batch-tokens`, on the threads and on
which sequences run together.  Measured on a processor with AMX, 640 wide, 24 layers: 94 % of the stored float16 values
change, the largest by 7e-3 of the largest value, below bfloat16's own error.  The option `products` = `fixed-256`
(`embed run --deterministic`) does away with that on processors of one kind; docs/design/0011.  What joins caches keeps
one record of each key and compares no rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, one_line, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import list_folder, refuse_links, refuse_shared
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.cache.records.modality import INPUT_NAMES, check_modality
from crossllm.cache.records.record import NORMALISER
from crossllm.cache.remote.by_path import mirror_of, publish
from crossllm.cache.store.layout import StorageType
from crossllm.cache.store.store_folder import embeddings_folder, refuse_absent_store, store_folder

FORMAT = 1
"""Version of everything under `embeddings/` and `records/`; docs/format.md is its specification."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_FOLDER = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}-[0-9a-f]{16}")
_TRUNCATE = re.compile(r"truncate:([1-9][0-9]{0,9})")
_MAX_JSON = 1 << 20

IMPORTED = "imported"
"""The tokenizer of a recipe whose rows were made elsewhere."""
POOLED = "pooled"
"""The option `rows` of a recipe that has one vector a sequence: its `long` is truncate:1, which every reader knows."""


@dataclass(frozen=True)
class Recipe:
    """How the rows of one modality were made and are stored."""

    modality: str
    """rna, protein or molecule."""
    encoder: str
    """Name of the encoder, e.g. `profile` or `rinalmo-giga`."""
    encoder_version: int
    """Raised whenever the encoder's own code changes a number."""
    dim: int
    """Width of a row, D."""
    weights: str | None = None
    """SHA-256 of the weights' bytes; None for an encoder without weights."""
    layer: str | None = None
    """Which layer's output; None where there is only one."""
    compute: str = "float32"
    """Type the encoder computes in."""
    dtype: StorageType = "float16"
    """Type the rows are stored in."""
    tokenizer: str = "none"
    """Letters → tokens, as the encoder names it."""
    long: str = "whole"
    """Policy for sequences beyond the encoder's limit: whole, window:N:OVERLAP or truncate:N."""
    normaliser: int = NORMALISER
    """Version of the sequence normaliser the keys were made with."""
    options: dict[str, str] = field(default_factory=dict)
    """Further switches of this encoder that change a number."""
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII.  Its SHA-256 is the digest."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def folder_name(self) -> str:
        """`<encoder>-<first 16 hex digits of the digest>`."""
        return f"{self.encoder}-{self.digest[:16]}"

    def folder(self, cache_dir: Path) -> Path:
        """Where this recipe's segments and commits live in a cache."""
        return embeddings_folder(cache_dir) / self.modality / self.folder_name

    @property
    def pooled(self) -> bool:
        """Whether the one row of a record is a vector of the whole sequence."""
        return self.options.get("rows") == POOLED and self.long == "truncate:1"

    def rows_of(self, length: int) -> int:
        """Rows of a sequence of so many residues, nucleotides or atoms: as many, or at most N under truncate:N."""
        cut = _TRUNCATE.fullmatch(self.long)
        return length if cut is None else min(length, int(cut[1]))

    def differences(self, other: Recipe) -> list[str]:
        """One `field: mine, not theirs` for every field in which the two differ."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {mine}, not {theirs}" for name, mine, theirs in pairs if mine != theirs]


def parse_recipe(data: bytes, where: Path) -> Recipe:
    """A `Recipe` from the bytes of `recipe.json`.

    Raises:
        InputError: it is of a newer format than this version reads.
        CacheCorrupt: it is no recipe.
    """
    found = parse_json(data, where)
    if isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise InputError(f"{where}: cache format {found['format']}, this version reads up to {FORMAT}; upgrade it")
    try:
        recipe = Recipe(**found)
    except TypeError as error:
        raise CacheCorrupt(f"{where}: {one_line(error)}; the recipe is damaged") from None
    if not all(type(getattr(recipe, n)) is int for n in ("encoder_version", "dim", "normaliser", "format")):
        raise CacheCorrupt(f"{where}: a number of the recipe is no integer; the recipe is damaged")
    texts = [recipe.modality, recipe.encoder, recipe.compute, recipe.tokenizer, recipe.long]
    texts += [value for value in (recipe.weights, recipe.layer) if value is not None]
    options = recipe.options if isinstance(recipe.options, dict) else {"": None}
    if not all(isinstance(text, str) for text in (*texts, *options, *options.values())):
        raise CacheCorrupt(f"{where}: a text of the recipe is none; the recipe is damaged")
    if recipe.dim < 1 or recipe.dtype not in ("float16", "float32") or not _NAME.fullmatch(str(recipe.encoder)):
        raise CacheCorrupt(f"{where}: dim, dtype or encoder out of range; the recipe is damaged")
    if recipe.long.startswith("truncate") and not _TRUNCATE.fullmatch(recipe.long):
        raise CacheCorrupt(f"{where}: long '{printable(recipe.long)}' is not truncate:N; the recipe is damaged")
    return recipe


def write_recipe(cache_dir: Path, recipe: Recipe) -> Path:
    """Create the recipe's folder in a cache, or find it there; its path.

    Raises:
        InputError: the recipe could not be read again as it is; nothing was written.
    """
    folder = recipe.folder(cache_dir)
    check_recipe(recipe, folder)
    for home in (cache_dir, store_folder(cache_dir)):
        fsio.make_dirs(home)
        refuse_shared(home)
    for name in ("segments", "commits"):
        refuse_links(folder, folder / name)
        fsio.make_dirs(folder / name)
    held = mirror_of(folder) is not None and (folder / "recipe.json").exists()
    if held or not publish(folder / "recipe.json", recipe.to_json()):
        read_recipe(folder)
    return folder


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Raise `InputError` for a recipe that readers would refuse, or that could not be shown on a line."""
    data = recipe.to_json()
    if len(data) > _MAX_JSON:
        raise InputError(
            f"{folder}: a recipe of {len(data)} bytes, at most {_MAX_JSON} are taken; give it fewer options"
        )
    try:
        same = parse_recipe(data, folder) == recipe and _FOLDER.fullmatch(recipe.folder_name) is not None
    except CacheCorrupt as error:
        raise InputError(str(error).replace("the recipe is damaged", "nothing was written")) from None
    if not same:
        raise InputError(f"{folder}: the recipe '{printable(recipe.encoder)}' would be read as another; rename it")
    texts = [value for value in asdict(recipe).values() if isinstance(value, str)]
    texts += [*recipe.options, *recipe.options.values()]
    if odd := next((text for text in texts if not text.isprintable()), None):
        raise InputError(
            f"{folder}: '{printable(odd)}' in the recipe is not printable; name it without such characters"
        )


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a folder, its digest checked against the folder's name."""
    refuse_links(folder, folder / "segments", folder / "commits")
    where = folder / "recipe.json"
    recipe = parse_recipe(read_bytes(where, _MAX_JSON), where)
    if recipe.folder_name != folder.name or recipe.modality != folder.parent.name:
        raise CacheCorrupt(f"{where}: its digest does not match the folder's name; the recipe is damaged or was edited")
    return recipe


def recipe_folders(cache_dir: Path, modality: str) -> list[Path]:
    """The recipe folders of a modality, by name."""
    embeddings = embeddings_folder(cache_dir)
    list_folder(embeddings)
    found = [p for p in list_folder(embeddings / modality) if _FOLDER.fullmatch(p.name)]
    for folder in found:
        list_folder(folder)
    # A folder whose recipe.json is not published yet belongs to a writer that is just starting: it holds nothing.
    return [folder for folder in found if (folder / "recipe.json").exists()]


def list_recipes(cache_dir: Path, modality: str) -> list[Recipe]:
    """The recipes a cache holds for a modality, by folder name.

    Raises:
        CacheCorrupt: one of them is damaged or missing.
    """
    if lost := orphaned_folders(cache_dir, modality):
        raise CacheCorrupt(f"{folder}: has commit records but no recipe.json" for folder in lost)
    return [read_recipe(folder) for folder in recipe_folders(cache_dir, modality)]


def orphaned_folders(cache_dir: Path, modality: str) -> list[Path]:
    """Folders that hold commit records but have lost their recipe.json: damage, where an empty one is a start."""
    parent = embeddings_folder(cache_dir) / modality
    # The commits first: a writer that is just starting publishes them after its recipe.json.
    committed = [p.parent for p in parent.glob("*/commits") if any(p.glob("*.json"))]
    return sorted(folder for folder in committed if not (folder / "recipe.json").exists())


def similar_recipes(cache_dir: Path, asked: Recipe, *same: str) -> list[Recipe]:
    """The recipes that a cache holds of a modality and encoder, and that agree in the named fields as well."""
    wanted = ("encoder", *same)
    return [
        held
        for held in list_recipes(cache_dir, asked.modality)
        if all(getattr(held, name) == getattr(asked, name) for name in wanted)
    ]


def refuse_other(cache_dir: Path, asked: Recipe, held: Sequence[Recipe], what: str, fix: str) -> None:
    """Raise `Conflict`, with the fields that differ, where a cache holds recipes like the one asked for but not it."""
    if held and asked not in held:
        nearest = min(held, key=lambda other: len(asked.differences(other)))
        differs = f"which differs from this {what} in {'; '.join(asked.differences(nearest))}"
        raise Conflict(f"{cache_dir}: already holds {nearest.folder_name}, {differs}; {fix}")


def choose_recipe(cache_dir: Path, modality: str, named: str | None = None) -> Recipe:
    """The only recipe of a modality, or the one named by encoder name, folder name or the start of its digest.

    Raises:
        InputError: none, or several and none named; the message lists them.
    """
    check_modality(modality)
    held = list_recipes(cache_dir, modality)
    found = [r for r in held if named is None or named in (r.encoder, r.folder_name) or _starts(r, named)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(r.folder_name for r in held) or "none"
    if not held:
        refuse_absent_store(cache_dir)
        raise InputError(
            f"{cache_dir}: holds no {modality} embeddings; run `embed run --modality {modality} "
            f"--input {cache_dir / INPUT_NAMES[modality]}` first, with `--encoder profile` where no weights are at hand"
        )
    wanted = "one is needed" if named is None else f"'{printable(named)}' fits {len(found)} of them"
    raise InputError(f"{cache_dir}: {modality} recipes here: {names}; {wanted}, name one by --recipe")


def _starts(recipe: Recipe, named: str) -> bool:
    return len(named) >= 4 and recipe.digest.startswith(named)
