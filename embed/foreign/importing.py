"""`crossllm cache import`: embeddings made elsewhere → a recipe that names its source.

    FILE|DIR ─ entries ─► match ids ─► check shapes ─► check values ─► CacheWriter ─► segments

Everything is checked before anything is written, so that a bad array leaves no half import behind.  One array is in
memory at a time; of the rest, names and shapes.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.console.messages import note, say_notes, write_skipped
from crossllm.cache.console.progress import progress
from crossllm.cache.console.runner import stop_between_records
from crossllm.cache.errors import InputError, Problem, bad_lines, printable
from crossllm.cache.records.id_table import publish_table
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import Record
from crossllm.cache.records.record_list import Records
from crossllm.cache.remote.opening import shown
from crossllm.cache.store.layout import Compressor, StorageType, Store
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import IMPORTED, POOLED, Recipe, refuse_other, similar_recipes
from crossllm.cache.store.writer import CacheWriter, refuse_compressed_h5, sync_what_others_wrote
from crossllm.embed.foreign.adapting import Adapted, Adaption
from crossllm.embed.foreign.entry import BadEntry, Entry, Source, read_rows, sha256_of
from crossllm.embed.foreign.layouts import Found, find_files, open_source
from crossllm.embed.foreign.matching import Matched, mapping_path, match, read_mapping
from crossllm.embed.foreign.strangers import hint_of, nothing_fits
from crossllm.embed.foreign.validation import Sound, check_shapes, check_values, in_source_order, problem_of

SHOWN_NAMES = 3
_LONGEST_NAME = 1000


@dataclass(frozen=True)
class ImportOptions:
    """What `cache import` was asked for."""

    modality: str
    input: Path
    fasta: Path
    cache_dir: Path
    source: str | None = None
    """Name of the recipe; None: from the name of the input."""
    dtype: StorageType | None = None
    """None: as the cache's recipe has it, float16 for a new one."""
    layer: str | None = None
    """Of fair-esm `.pt` files with several."""
    strip: tuple[int, int] = (0, 0)
    """Rows to cut from the start and the end of every array: those of BOS and EOS."""
    pooled: bool = False
    """The arrays are one vector a sequence."""
    on_bad: OnBad = "error"
    reading: ReadOptions = ReadOptions()
    """How the FASTA is read where it does not say so itself."""
    store: Store = "zarr"
    """How segments are laid down; readers need no word of it."""
    compressor: Compressor | None = None
    """Of Zarr segments."""
    quiet: bool = False


class ImportSummary(NamedTuple):
    """What one import did."""

    cache: str
    recipe: str
    """Folder name of the recipe."""
    layout: str
    records: int
    """Of the FASTA."""
    distinct: int
    """Distinct sequences of the FASTA that have sound rows in the input."""
    already: int
    """Of these, in the cache before."""
    imported: int
    without: int
    """Distinct sequences of the FASTA that have no sound rows in the input."""
    unmatched: int
    """Arrays of the input that belong to no sequence of the FASTA."""
    skipped: int
    """Bad records and arrays left out under `--on-bad skip`."""


def import_embeddings(options: ImportOptions) -> ImportSummary:
    """Import every array that belongs to a sequence of the FASTA and that the cache does not hold yet.

    Raises:
        InputError: bad records or arrays (one line each), or nothing that fits; nothing was written.
        Conflict: the cache holds a recipe of this name from another source.
    """
    refuse_compressed_h5(options.store, options.compressor)
    records = read_records(options.fasta, options.modality, options.on_bad, options.reading)
    say_notes(options.fasta, records.notes, records.skipped, "records")
    found = find_files(options.input)
    source: Source = open_source(options.input, found, options.layer)
    if options.pooled or any(options.strip):
        source = Adapted(source, Adaption(options.strip, options.pooled))
    try:
        return _import(options, records, found, source)
    finally:
        source.close()


def _import(options: ImportOptions, records: Records, found: Found, source: Source) -> ImportSummary:
    distinct = records.distinct()
    entries = [*source.entries(), *found.broken]
    matched = match(entries, records, options.fasta, read_mapping(options.input))
    problems = matched.problems
    if not matched.by_key and not problems:
        raise InputError(nothing_fits(options.input, matched.unmatched, records, options.fasta, options.cache_dir))
    sound = check_shapes(source, matched, records.records, entries, problems, options.pooled)
    _stop_at(options, problems, len(sound.entries))
    recipe = resolve_recipe(options, found, source, sound)
    missing = CacheReader(options.cache_dir, recipe).missing(sound.entries)
    to_read = in_source_order({key: sound.entries[key] for key in missing}, entries)
    values = check_values(source, to_read, recipe.dtype, options.quiet)
    problems += values.refused.values()
    _stop_at(options, problems, len(sound.entries) - len(values.refused))
    pending = {key: entry for key, entry in to_read.items() if key not in values.refused}
    publish_table(options.cache_dir, options.modality, records.records)
    _say(options, found, recipe, sound, values.rounded, problems, matched)
    without = [record for key, record in distinct.items() if key not in sound.entries or key in values.refused]
    _say_without(options, without)
    if without and (hint := hint_of(matched.unmatched, records, options.fasta, options.cache_dir)) is not None:
        note(f"note: {options.input}: {hint}")
    write_skipped(options.cache_dir, f"cache-import-{options.modality}", [*records.skipped, *problems])
    stored = _store(options, recipe, source, pending)
    sync_what_others_wrote(options.cache_dir, recipe)
    return ImportSummary(
        shown(options.cache_dir),
        recipe.folder_name,
        found.layout,
        len(records.records),
        len(distinct) - len(without),
        len(distinct) - len(without) - len(pending),
        stored,
        len(without),
        len(matched.unmatched),
        len(records.skipped) + len(problems),
    )


def _stop_at(options: ImportOptions, problems: list[Problem], left: int) -> None:
    """Raise with all problems, unless they may be skipped and something is left."""
    if problems and (options.on_bad == "error" or not left):
        raise InputError(bad_lines(problems))


def resolve_recipe(options: ImportOptions, found: Found, source: Source, sound: Sound) -> Recipe:
    """The recipe to write; where the cache holds one of this name and layer, it must be of the same source.

    Raises:
        Conflict: it is not; the field that differs is named.
    """
    described = {"source": printable(options.input.resolve().name, _LONGEST_NAME), "layout": found.layout}
    if (table := mapping_path(options.input)).exists():  # it decides which rows are whose
        described["mapping"] = sha256_of(table, [table])
    if any(options.strip):
        described["strip"] = ",".join(map(str, options.strip))
    if options.pooled:
        described["rows"] = POOLED
    asked = Recipe(
        modality=options.modality,
        encoder=_recipe_name(options),
        encoder_version=0,
        dim=sound.dim,
        layer=source.layer,
        compute=sound.compute,
        tokenizer=IMPORTED,
        long="truncate:1" if options.pooled else "whole",
        options=described | {"sha256": sha256_of(options.input, found.files)},
    )
    held = similar_recipes(options.cache_dir, asked, "layer")
    dtype = options.dtype or (held[0].dtype if len(held) == 1 else "float16")
    asked = dataclasses.replace(asked, dtype=dtype)
    refuse_other(options.cache_dir, asked, held, "import", "name this one with --source NAME")
    return asked


def _recipe_name(options: ImportOptions) -> str:
    """`--source`, or the input's name without its ending, in the letters that a recipe's name may have."""
    path = options.input.resolve()
    given = options.source or (path.name if path.is_dir() else path.stem)
    name = re.sub(r"[^a-z0-9.]+", "-", given.lower()).strip("-.")[:64].rstrip("-.")
    if not name and options.source:
        raise InputError(f"--source '{printable(given)}': no letter or digit in it; name it e.g. rna-fm")
    return name or "imported"


def _say(
    options: ImportOptions,
    found: Found,
    recipe: Recipe,
    sound: Sound,
    rounded: int,
    problems: list[Problem],
    matched: Matched,
) -> None:
    """Say what was changed or left out, counted."""
    notes = Counter(
        {
            f"values rounded from {sound.compute} to {recipe.dtype}"
            + (" (--dtype float32 keeps more)" if recipe.dtype == "float16" else ""): rounded,
            "there twice with the same rows, taken once": sound.repeated,
            f"of no sequence in {options.fasta.name}, not imported"
            + (f" (e.g. {_some([e.name for e in matched.unmatched])})" if matched.unmatched else ""): len(
                matched.unmatched
            ),
        }
    )
    say_notes(options.input, +notes, problems, "arrays")
    if found.ignored:
        note(f"note: {options.input}: {found.ignored} other files there, not read (hidden ones, links to folders)")
    if options.modality == "molecule" and not options.pooled:
        note(f"note: {options.input}: row i is taken as atom i of the canonical SMILES, as RDKit writes it")


def _say_without(options: ImportOptions, without: list[Record]) -> None:
    if without:
        names = _some([record.id for record in without])
        note(
            f"note: {options.fasta}: {len(without)} sequences have no sound rows in {options.input.name} (e.g. {names})"
        )


def _some(names: list[str]) -> str:
    return ", ".join(map(printable, names[:SHOWN_NAMES])) + (", …" if len(names) > SHOWN_NAMES else "")


def _store(options: ImportOptions, recipe: Recipe, source: Source, pending: Mapping[bytes, Entry]) -> int:
    """Write what is pending; how many records were committed."""
    if not pending:
        return 0
    with (
        stop_between_records() as stopping,
        CacheWriter(options.cache_dir, recipe, store=options.store, compressor=options.compressor) as writer,
    ):
        for key, entry in progress(pending.items(), len(pending), "importing", options.quiet):
            try:
                writer.add(key, read_rows(source, entry))
            except BadEntry as bad:  # it was sound a moment ago
                raise InputError(str(problem_of(entry, bad))) from None
            if stopping():
                break
    return writer.committed
