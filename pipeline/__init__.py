"""Datasets, training and evaluation on a cache.  Imports `cache` and `model`, never `embed`.

Rooms, as the data goes: `data` (datasets, pairs, folds), `training` (one fold), `evaluation` (metrics), `features` and
`baselines` (what stands beside the model), `systems` (our model and its rivals, fold by fold), `reporting` (what a run
leaves), `use` (a finished run on other pairs), `explaining` (what speaks for a pair), `page` (finished runs as one
page); `train` puts them together.  `crossllm/` holds the package's own name.  From outside: `load_run`, `predict`,
`explain` and `write_report`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossllm.pipeline.explaining.explain import explain
    from crossllm.pipeline.page.writing import write_report
    from crossllm.pipeline.use.notebook import predict
    from crossllm.pipeline.use.trained_run import TrainedRun, load_run

__all__ = ["TrainedRun", "explain", "load_run", "predict", "write_report"]
_HOMES = {
    "TrainedRun": "use.trained_run",
    "explain": "explaining.explain",
    "load_run": "use.trained_run",
    "predict": "use.notebook",
    "write_report": "page.writing",
}
"""Name → its module."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # imported when asked for: every command imports this package, and few need torch
        return getattr(import_module(f"crossllm.pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'crossllm.pipeline' has no attribute '{name}'")
