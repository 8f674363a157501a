"""The systems that `train --system` fits: our model, and those that the literature compares it with, on the same folds.

One file a system, each read beside its recipe in `docs/guide/systems.md`.  From outside: `registry`, `folds`.
"""
