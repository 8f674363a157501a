"""Caches in an object store (s3://, gs://, az://): a bounded folder on this machine stands for each.

From outside: `open_cache` of `opening`, `mirror_of` of `by_path`, `FetchedRows` of `rows`.  docs/design/0018 says why.
"""
