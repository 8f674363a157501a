"""Every baseline by its name, and which of them a run is asked for."""

from __future__ import annotations

import difflib

from crossllm.cache.errors import InputError, printable
from crossllm.pipeline.baselines.additive import additive
from crossllm.pipeline.baselines.counts import counts
from crossllm.pipeline.baselines.material import Fit, refitted
from crossllm.pipeline.baselines.neighbours import nearest, relatives
from crossllm.pipeline.baselines.one_number import one_number
from crossllm.pipeline.baselines.one_partner import one_partner
from crossllm.pipeline.baselines.random_embedding import random_embedding
from crossllm.pipeline.baselines.trees import trees
from crossllm.pipeline.data.labels import Task

_BOTH: dict[str, Fit] = {
    "id_only": refitted(counts(by_sequence=False)),
    "id_only_sequence": refitted(counts(by_sequence=True)),
    "one_number": one_number,
    "relatives": refitted(relatives),
    "nearest": refitted(nearest),
    "one_partner_a": refitted(one_partner(0)),
    "one_partner_b": refitted(one_partner(1)),
    "trees": refitted(trees),
    "random_embedding": random_embedding,
}
BASELINES: dict[Task, dict[str, Fit]] = {
    "classification": _BOTH,
    "regression": {"additive": refitted(additive), **_BOTH},
}
"""Task → name in `metrics.json` → the baseline, fitted and scored on each fold beside the model; the slowest last."""
FAST = ("additive", "id_only", "id_only_sequence", "one_number")
"""What `fast` stands for: no alignment, no forest, no network."""
NETWORKS = ("random_embedding",)
"""Those that are trained as long as the model is."""
GROUPS = ("all", "fast", "none")


def chosen(text: str, task: Task) -> list[str]:
    """The baselines of a task that `--baselines` asks for, in the order of the table.

    Args:
        text: names with commas between them, or one of `GROUPS`.
        task: of the dataset.

    Raises:
        InputError: a name that is not known, or of the other task.
    """
    known = BASELINES[task]
    if text.strip() in GROUPS:
        return {"all": [*known], "fast": [name for name in known if name in FAST], "none": []}[text.strip()]
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name in BASELINES["regression"] and name not in known:
            raise InputError(f"--baselines: {name} is of affinities, this dataset's task is {task}; leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *GROUPS], 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"--baselines '{printable(name)}': no such baseline; {hint}known: {', '.join(known)}; or one of "
                f"{', '.join(GROUPS)}"
            )
    return [name for name in known if name in asked]
