"""Datasets, training and evaluation on a cache.  Imports `cache` and `model`, never `embed`.

Rooms, as the data goes: `data` (datasets, pairs, folds), `training` (one fold), `evaluation` (metrics), `features` and
`baselines` (what stands beside the model), `systems` (our model and its rivals, fold by fold), `reporting` (what a run
leaves), `use` (a finished run on other pairs), `page` (finished runs as one page); `train` puts them together.
`crossllm/` holds the package's own name.  From outside: `load_run`, `write_report`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossllm.pipeline.page.writing import write_report
    from crossllm.pipeline.use.trained_run import TrainedRun, load_run

__all__ = ["TrainedRun", "load_run", "write_report"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: every command imports this package, and few need torch.
    if name == "write_report":
        from crossllm.pipeline.page import writing

        return writing.write_report
    if name in __all__:
        from crossllm.pipeline.use import trained_run

        return getattr(trained_run, name)
    raise AttributeError(f"module 'crossllm.pipeline' has no attribute '{name}'")
