"""Baselines beside every result: what shortcuts and simple models alone score, on the same folds as the model.

One file a family; `registry` names them, `run` fits them.  From outside: `registry`, `run`.
"""
