"""Frozen encoders: records → rows → cache.  Imports `cache` and nothing else of ours.

Rooms, from the top floor down: `run` (`embed run`) and `foreign` (embeddings of other tools), `encoders` (one file a
model), `weights` (their files), `encoder` (what an encoder is), `engine` (the packed transformer).
"""
