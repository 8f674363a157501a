"""Dask clusters, where a command spreads its work: how they are named, opened and left.

From outside: `parse_cluster` of `address`, `opened` of `opening`.  Nothing of Dask is imported before one is opened.
"""
