"""Rows → tokens: what one step of the fused sequence stands for.

`residue` is one row a token; `window:k` averages k neighbouring rows; `pooled` averages all of them, so that a pair
has two tokens; `auto` is the smallest power of two k for which the median pair has at most `AUTO_FUSED_TOKENS` fused
tokens, whatever the device.

Shapes: L rows of one sequence, D width, k rows a window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

AUTO_FUSED_TOKENS = 256
POOLED = 1 << 62
"""The window of `pooled`: longer than any sequence."""
_WINDOW = re.compile(r"window:([1-9][0-9]{0,5})")


def parse_tokens(tokens: str) -> int | None:
    """Rows a token averages: 1 for `residue`, k for `window:k`, `POOLED` for `pooled`, None for `auto`.

    Raises:
        ValueError: it is none of these.
    """
    if tokens == "auto":
        return None
    if tokens in ("residue", "pooled"):
        return 1 if tokens == "residue" else POOLED
    if match := _WINDOW.fullmatch(tokens):
        return int(match[1])
    raise ValueError(f"tokens '{tokens}' is not known; one of: residue, window:K (K at least 1), pooled, auto")


def tokens_name(window: int) -> str:
    """What `parse_tokens` reads as this window."""
    return {1: "residue", POOLED: "pooled"}.get(window, f"window:{window}")


def auto_window(pair_lengths: Sequence[tuple[int, int]]) -> int:
    """The window that `auto` takes for pairs of these lengths (rows of A, rows of B)."""
    k = 1
    while np.median([-(-a // k) + -(-b // k) for a, b in pair_lengths]) > AUTO_FUSED_TOKENS:
        k *= 2
    return k


def window_mean(rows: np.ndarray, k: int) -> np.ndarray:
    """Means of k neighbouring rows, fewer in the last window: (L, D) → (⌈L/k⌉, D) float32; k = 1 returns `rows`."""
    if k == 1:
        return rows
    length, width = rows.shape
    k = min(k, length)
    full = length // k
    means = np.empty((-(-length // k), width), np.float32)
    # Summed in float64: thousands of float32 rows summed one by one lose three digits.
    np.mean(rows[: full * k].reshape(full, k, width), axis=1, dtype=np.float64, out=means[:full])
    if full < len(means):
        means[full] = rows[full * k :].mean(axis=0, dtype=np.float64)
    return means
