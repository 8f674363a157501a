"""Datasets, splits, training and evaluation on a cache.  Imports `cache` and `model`, never `embed`."""
