"""The names of what a segment can be laid down as; flags and code take them from here."""

from __future__ import annotations

from typing import Literal

Store = Literal["zarr", "h5"]
Compressor = Literal["zstd"]
"""What a writer of this project can compress with."""
StorageType = Literal["float16", "float32"]
"""Of stored rows; zarr has no bfloat16."""
