"""`predict`: a finished run's answers to new pairs in Python, as a pandas frame where pandas is installed.

    from crossllm.pipeline import predict
    found = predict("cache/mine/runs/mine", [("n0", "p0")], a="new_rna.fasta")

Shapes: P pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crossllm.cache.console.progress import pair_progress
from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.reading import read_records
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.data.pairs import Columns
from crossllm.pipeline.use import answers, domain
from crossllm.pipeline.use.pair_table import PairTable
from crossllm.pipeline.use.partners import Partners, Reading, open_partners
from crossllm.pipeline.use.predictor import COLUMNS, Predictor, Where
from crossllm.pipeline.use.run_data import RunData, run_data
from crossllm.pipeline.use.trained_run import TrainedRun, load_run

Sequences = str | Path | Mapping[str, str] | None
"""A file, or id → sequence or SMILES; None: ids are those of the run's dataset."""


def predict(
    run: TrainedRun | str | Path,
    pairs: Any,
    a: Sequences = None,
    b: Sequences = None,
    *,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    weights: tuple[str | Path | None, str | Path | None] = (None, None),
    device: str = "cpu",
    quiet: bool = False,
) -> Any:
    """The answers of `crossllm predict`, unrounded and in memory.

    Args:
        run: a finished run, or its folder.
        pairs: P pairs: `(a_id, b_id)` tuples, a pandas frame with the columns a_id and b_id, or a table's path; all
            columns are kept.
        a, b: sequences of either side, a file or id → sequence.
        data: folder of the run's dataset, where the run lies elsewhere.
        cache: where new rows go; None: the run's own cache.
        weights: of either side's encoder; None: the pulled ones.
        device: where to compute.
        quiet: no progress bar.

    Returns:
        A pandas frame with a row for each pair, or a list of dicts where pandas is not installed: the pair's own
        columns, then `score`, `score_low`, `score_high`, `uncertainty`, `predicted`, `nearest_a`, `nearest_b`, `domain`
        (docs/guide/predicting.md).

    Raises:
        InputError: an id without a sequence, a sequence that cannot be embedded, no finished run.
        Conflict, CacheCorrupt: as the command.
    """
    run = run if isinstance(run, TrainedRun) else load_run(run)
    known = run_data(run, None if data is None else Path(data))
    partners = _partners(known, (a, b))
    columns, numbers = _numbered(pairs, partners)
    where = Where(
        None if cache is None else Path(cache),
        (None if weights[0] is None else Path(weights[0]), None if weights[1] is None else Path(weights[1])),
        device,
    )
    predictor = Predictor(run, known, partners, where, quiet=quiet)
    if failed := [why for one in predictor.embed() for why in one.failures.values()]:
        raise InputError(f"{printable(why, 300)}; it could not be embedded" for why in failed)
    with pair_progress(len(numbers[0]), "predicting", quiet) as done:
        found = answers.answers(run, predictor.scorer.scores(*numbers, done))
    near = predictor.near
    added = [*found, near[0].identity[numbers[0]], near[1].identity[numbers[1]], domain.domains(*near, *numbers)]
    return _frame(columns | dict(zip(COLUMNS, added, strict=True)))


def _partners(data: RunData, given: tuple[Sequences, Sequences]) -> tuple[Partners, Partners]:
    """Both sides; sequences in memory go through a file, so that they are checked as those of a file are."""
    sides: list[Side | None] = []
    with tempfile.TemporaryDirectory(prefix="crossllm-") as folder:
        for name, own, modality in zip("ab", given, data.modalities, strict=True):
            if own is None or isinstance(own, str | Path):
                sides.append(None if own is None else Side(modality, Path(own)))
                continue
            path = Path(folder, f"{name}.{'smi' if modality == 'molecule' else 'fasta'}")
            line = "{}\t{}\n" if modality == "molecule" else ">{}\n{}\n"
            path.write_text("".join(line.format(id_, sequence) for id_, sequence in own.items()), encoding="utf-8")
            if len(read_records(path, modality).records) != len(own):
                raise InputError(f"{name}: an id is no word of its own; ids of sequences hold no blanks or lines")
            sides.append(Side(modality, path))
        return open_partners(data, (sides[0], sides[1]), Reading())


def _numbered(
    pairs: Any, partners: tuple[Partners, Partners]
) -> tuple[dict[str, list[Any]], tuple[np.ndarray, np.ndarray]]:
    """The pairs' own columns, and the number of either sequence of each pair, (P,)."""
    if isinstance(pairs, str | Path):
        table = PairTable(Path(pairs), partners, Columns(label=None), COLUMNS)
        table.check()
        rows = list(table)
        columns = dict(zip(table.header, map(list, zip(*(row.cells for row in rows), strict=True)), strict=True))
        return columns, (np.array([row.a for row in rows]), np.array([row.b for row in rows]))
    if hasattr(pairs, "columns"):
        columns = {str(name): pairs[name].tolist() for name in pairs.columns}
        if missing := [name for name in ("a_id", "b_id") if name not in columns]:
            raise InputError(f"pairs: no column {', '.join(missing)}; rename the columns of the ids")
    else:
        both = [tuple(pair) for pair in pairs]
        columns = {"a_id": [a for a, _ in both], "b_id": [b for _, b in both]}
    if clash := [name for name in columns if name in COLUMNS]:
        raise InputError(f"pairs: has a column '{clash[0]}', which is to be added; rename or drop it")
    if not len(columns["a_id"]):
        raise InputError("pairs: holds no pair; give at least one")
    return columns, (_of_ids("a", columns["a_id"], partners[0]), _of_ids("b", columns["b_id"], partners[1]))


def _of_ids(side: str, ids: Iterable[Any], partners: Partners) -> np.ndarray:
    """(P,) number of each id's sequence."""
    found = [(id_, partners.number(str(id_))) for id_ in ids]
    if unknown := [id_ for id_, number in found if number is None]:
        raise InputError(
            f"pairs: {len(unknown)} ids of side {side} have a sequence neither in what was given nor in the run's "
            f"dataset, first '{printable(str(unknown[0]))}'"
        )
    return np.array([number for _, number in found])


def _frame(columns: dict[str, Any]) -> Any:
    try:
        import pandas as pd
    except ImportError:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return pd.DataFrame(columns)
