"""Datasets, training and evaluation on a cache.  Imports `cache` and `model`, never `embed`.

Rooms, as the data goes: `data` (datasets, pairs, folds), `training` (one fold), `evaluation` (metrics, baselines),
`reporting` (what a run leaves); `train` puts them together.  `crossllm/` holds the package's own name.
"""
