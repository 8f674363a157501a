"""Frozen encoders: records → rows → cache.  Imports `cache` and nothing else of ours."""
