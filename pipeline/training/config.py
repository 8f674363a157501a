"""What a training run is made of: defaults < `--config FILE.toml` < `--set key=value` < flags, checked in one place.

The resolved choice is saved in the run folder as `config.toml`, which `--config` reads again.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from crossllm.cache.errors import InputError, printable
from crossllm.cache.files.text_file import read_lines
from crossllm.model.settings import BACKENDS, FOCAL_ALPHA, FOCAL_GAMMA, MSE_WEIGHT, ModelConfig
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.similarity.rules import Molecules
from crossllm.pipeline.splits.options import BLOCKS, KINDS, MOLECULES, SplitOptions
from crossllm.pipeline.training.setting_values import Text, checked

SYSTEMS = (
    OUR_MODEL, "kmer_trees", "rpiseq_rf", "ipminer", "cfrp", "rpiter", "lpi_csffr", "rnaincoder", "biollmnet",
)  # fmt: skip
"""What `system` may be; `crossllm.pipeline.systems.registry`, a floor above, says what each is."""
GATES = ("input", "static")
RUN_TABLES = ("dataset", "recipe", "run", "seeds")
"""Tables of a run's `config.toml` that describe that run; `--config` leaves them out."""


@dataclass(frozen=True)
class TrainConfig:
    """What a user may choose of a run."""

    system: str = field(default=OUR_MODEL, metadata={"one_of": SYSTEMS})
    """What is fitted and scored on each fold.  Systems other than `crossllm_mamba` have the settings of their papers;
    of these here they read those of the split, `interval`, `seed`, and what docs/guide/systems.md names."""
    gate: str = field(default="input", metadata={"one_of": GATES})
    """Of `biollmnet`: weights of the two partners that follow from the pair, or that are the same for all pairs."""
    split: str = field(default="random", metadata={"one_of": KINDS})
    """`random` (distinct sequence pairs, stratified by class), `cold-a`, `cold-b`, `cold-both` (partners unseen),
    `cluster` (their relatives unseen too), `given` (a column of the pairs table), `transfer` or `file`."""
    fold_column: str = "fold"
    """The column that `given` takes."""
    folds: int = field(default=5, metadata={"range": (2, 100)})
    """Folds that are cut; where both sides are, parts of each side."""
    blocks: str = field(default="diagonal", metadata={"one_of": BLOCKS})
    """Of `cold-both` and `cluster`: `diagonal` tests each partner in one fold only, `all` every pair once."""
    identity_a: float = field(default=0.0, metadata={"range": (0.0, 1.0)})
    """Of `cluster` and the leak report: least identity of two relatives of side A; 0: RNA 0.8, protein 0.3, molecule
    0.7 (Tanimoto)."""
    identity_b: float = field(default=0.0, metadata={"range": (0.0, 1.0)})
    """The same of side B."""
    molecules: str = field(default="inchikey", metadata={"one_of": MOLECULES})
    """What makes molecules relatives: the parent's InChIKey block, their Murcko scaffold, or ECFP4 by identity."""
    train_on: str = ""
    """Of `transfer`: COLUMN=VALUE of the pairs that are trained on."""
    test_on: str = ""
    """COLUMN=VALUE of those that are tested."""
    validation: float = field(default=0.15, metadata={"range": (0.01, 0.5)})
    """Share of what may be trained on that chooses epoch and threshold instead; cut as the test part is."""
    protocol: str = field(default="honest", metadata={"one_of": ("honest", "paper")})
    """`honest`, or `paper`: the epoch that is best on the scored pairs themselves, at threshold ½ and without patience,
    as in much of the literature; for comparison with its numbers, and called optimistic in every output."""
    interval: float = field(default=0.9, metadata={"range": (0.5, 0.999)})
    """Share of affinities that the interval around a prediction is to hold."""
    tokens: str = "auto"
    """What a token is: residue, window:K, pooled or auto; the resolved value is saved."""
    epochs: int = field(default=40, metadata={"range": (1, 10**6)})
    """Most epochs."""
    patience: int = field(default=8, metadata={"range": (1, 10**6)})
    """Epochs without a better validation loss before training stops."""
    batch_pairs: int = field(default=32, metadata={"range": (1, 10**6)})
    """Most pairs a step."""
    batch_tokens: int = field(default=1 << 16, metadata={"range": (1, 1 << 40)})
    """Most tokens a step, through encoder and mixer: those of its distinct entities twice, or, with a fusion that joins
    the tokens of every pair, once and those of its pairs."""
    sharing: int = field(default=8, metadata={"range": (1, 10**6)})
    """Batches' worth of shuffled pairs that are put in order of their entities together, so that a batch shares them;
    1: batches of the plain shuffle."""
    compute: str = field(default="float32", metadata={"one_of": ("float32", "bfloat16", "auto")})
    """Type of the matrix products; parameters, scan and sums are in float32.  auto: bfloat16 where the device computes
    in it; what it chose is saved."""
    scan: str = field(default="auto", metadata={"one_of": ("auto", *BACKENDS)})
    """Backend of the selective scan (`model/scan/backends.py`); another one changes numbers by rounding, and mamba_ssm,
    whose kernel takes no states, the batches as well.  Saved as given."""
    lr: float = field(default=1e-3, metadata={"range": (1e-12, 1.0)})
    """AdamW's learning rate after `warmup_steps` of linear rise."""
    warmup_steps: int = field(default=20, metadata={"range": (1, 10**9)})
    schedule: str = field(default="constant", metadata={"one_of": ("constant", "cosine")})
    """Of the learning rate after the rise: as it is, or down to 0 by half a cosine over `epochs`."""
    ema: float = field(default=0.0, metadata={"range": (0.0, 0.99999)})
    """Share of its old weights that a moving average keeps a step, which is then validated and kept; 0: no average."""
    ensemble: int = field(default=1, metadata={"range": (1, 1000)})
    """Models that are trained side by side on the same batches, and whose outputs are averaged."""
    weight_decay: float = field(default=0.01, metadata={"range": (0.0, 1e3)})
    clip: float = field(default=1.0, metadata={"range": (1e-6, 1e9)})
    """Largest norm of the gradient of all parameters."""
    loss: str = field(default="focal", metadata={"one_of": ("focal", "bce")})
    """Of a classification: focal (Lin et al. 2017), as the paper has it, or binary cross-entropy, its ablation."""
    focal_gamma: float = field(default=FOCAL_GAMMA, metadata={"range": (0.0, 20.0)})
    """γ of the focal loss: how much less a pair counts that is told right already; 0: not at all."""
    focal_alpha: float | str = field(default=FOCAL_ALPHA, metadata={"range": (0.0, 1.0), "word": "auto"})
    """α of the focal loss: weight of the positives, 1 − α that of the negatives; 0.5 favours neither; `auto`: the
    share of negatives in the training part, so that both classes weigh the same."""
    balance: bool = False
    """Draw pairs of the rarer class again and again, so that an epoch has as many of each."""
    smooth: int = field(default=1, metadata={"range": (1, 1000)})
    """Epochs whose mean validation loss is compared, up to the one that may be taken: of few validation pairs the loss
    jumps."""
    mse_weight: float = field(default=MSE_WEIGHT, metadata={"range": (0.0, 1.0)})
    """α of the affinity loss α · MSE + (1 − α) · (1 − Pearson); a classification has no use for it."""
    seed: int = field(default=0, metadata={"range": (0, 2**32 - 1)})
    """Of folds, initial weights, order and noise."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def split_options(self) -> SplitOptions:
        """What the split is made of."""
        return SplitOptions(
            self.split,
            self.folds,
            self.seed,
            self.fold_column,
            self.blocks,
            self.identity_a,
            self.identity_b,
            cast(Molecules, self.molecules),
            self.train_on,
            self.test_on,
        )

    def to_tables(self) -> dict[str, dict[str, Any]]:
        """The two TOML tables, `train` and `model`."""
        found = dataclasses.asdict(self)
        return {"train": {k: v for k, v in found.items() if k != "model"}, "model": found["model"]}


def resolve(
    config: Path | None = None, sets: Sequence[str] = (), flags: Mapping[str, str] | None = None
) -> TrainConfig:
    """The configuration of a run.

    Args:
        config: TOML file with the tables `train` and `model`, each key a field.
        sets: `key=value` or `table.key=value`; words need no quotes.
        flags: field → text; None: none given.

    Raises:
        InputError: an unknown key, a value of the wrong type or out of range; one line each.
    """
    problems: list[str] = []
    chosen: dict[tuple[str, str], Any] = _before(_read(config)) if config else {}
    for table, key, value, where in _asked(config, sets, flags or {}):
        found = _locate(table, key)
        if found is None:
            names = [name for fields in _FIELDS.values() for name in fields]
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(names)}"
            problems.append(f"{where}: is not a setting of train; {hint}")
            continue
        problem, chosen[found] = checked(_FIELDS[found[0]][found[1]], value)
        if problem:
            problems.append(f"{where}: {problem}")
    if problems:
        raise InputError(problems)
    model = ModelConfig(**{key: value for (table, key), value in chosen.items() if table == "model"})
    if model.fusion != "cross_mamba":
        for name in ("order", "mixer_layers"):  # Cross-Mamba's own; ignored, an ablation over it would compare equals
            if getattr(model, name) != getattr(ModelConfig, name):
                raise InputError(
                    f"{name} {getattr(model, name)}: {model.fusion} has no such thing, cross_mamba alone has; "
                    f"--set {name}={getattr(ModelConfig, name)} takes it back"
                )
    train = TrainConfig(model=model, **{key: value for (table, key), value in chosen.items() if table == "train"})
    _check_system(train)
    if train.loss != "focal":
        for name in ("focal_gamma", "focal_alpha"):
            if getattr(train, name) != _FIELDS["train"][name].default:
                raise InputError(
                    f"{name} {getattr(train, name)}: the loss is {train.loss}, focal alone has it; --set loss=focal"
                )
    return train


def _check_system(train: TrainConfig) -> None:
    """Raise `InputError` for a setting that the system would leave without effect, or could not keep its word on."""
    if train.gate != GATES[0] and train.system != "biollmnet":
        raise InputError(f"gate {train.gate}: is of biollmnet alone; --system biollmnet, or --set gate={GATES[0]}")
    if train.protocol == "paper" and train.system != OUR_MODEL:
        raise InputError(
            f"--protocol paper: {train.system} chooses nothing on the scored pairs; leave it out, or take --system "
            f"{OUR_MODEL}"
        )


def held_config(run: Path) -> Path | None:
    """The configuration that a run folder holds, if it does."""
    path = run / "config.toml"
    return path if path.is_file() else None


def held_recipes(config: Path) -> dict[str, str]:
    """Side → digest of the recipe that a run was trained on, from its `config.toml`."""
    found = _read(config).get("recipe", {})
    return {side: text for side in "ab" if isinstance(found, dict) and isinstance(text := found.get(side), str)}


_FIELDS: dict[str, dict[str, dataclasses.Field[Any]]] = {
    "train": {f.name: f for f in dataclasses.fields(TrainConfig) if f.name != "model"},
    "model": {f.name: f for f in dataclasses.fields(ModelConfig)},
}


def with_older_settings(tables: dict[str, Any]) -> dict[str, Any]:
    """The tables of a run's `config.toml` with the settings that are younger than it, as that run had them."""
    filled = TrainConfig().to_tables()
    for (table, key), value in _before(tables).items():
        filled[table][key] = value
    known = {table: filled[table] | held for table in filled if isinstance(held := tables.get(table), dict)}
    return tables | known


def _before(tables: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Of a run's `config.toml`, what stood for settings that it lacks and that would now start otherwise."""
    if "run" not in tables:
        return {}
    return {
        (table, key): wanted.metadata["before"]
        for table, fields in _FIELDS.items()
        for key, wanted in fields.items()
        if "before" in wanted.metadata and key not in tables.get(table, {})
    }


def _asked(
    config: Path | None, sets: Sequence[str], flags: Mapping[str, str]
) -> Iterator[tuple[str | None, str, Any, str]]:
    """`(table or None, key, value, where it stands)` of everything asked for, what counts more last."""
    for table, content in (_read(config) if config else {}).items():
        if table in RUN_TABLES:
            continue
        if table not in _FIELDS or not isinstance(content, dict):
            raise InputError(f"{config}: '{printable(table)}' is no table of train; write [train] and [model]")
        for key, value in content.items():
            yield table, key, value, f"{config}: [{table}] {printable(key)}"
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set '{printable(text)}' is not KEY=VALUE")
        table_name, dot, key = name.strip().rpartition(".")
        yield table_name if dot else None, key, Text(value.strip()), f"--set {printable(name.strip())}"
    for key, value in flags.items():
        yield None, key, Text(value), f"--{key.replace('_', '-')}"


def _read(path: Path) -> dict[str, Any]:
    lines = list(read_lines(path))
    if bad := next((line for line in lines if line.problem), None):
        raise InputError(f"{path}:{bad.number}: {bad.problem}")
    try:
        return tomllib.loads("\n".join(line.text for line in lines))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}; write TOML, e.g. lr = 0.002 under [train]") from None


def _locate(table: str | None, key: str) -> tuple[str, str] | None:
    """Which table's field a key is."""
    return next(((t, key) for t, fields in _FIELDS.items() if table in (None, t) and key in fields), None)
