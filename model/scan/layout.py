"""How packed sequences lie: made once for a tensor of offsets, and remembered as long as that tensor lives.

All blocks of a step scan the same few layouts, and what is made of them here cost a small step as much as its products.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from crossllm.model.scan.validation import check_offsets

GROUPS = 16
"""Groups of sequences: the most tasks a channel block is split into; constant, so that sums never depend on threads."""

EVERY = 32
"""Steps of a chunk of the scan: what backward keeps of one state, 2 · 32 registers, stays in the first-level cache."""
RUN_TOKENS = 256
"""Tokens of a run, on average at least, where there are so many: a small step stays in one thread."""


class Layout(NamedTuple):
    """Of S sequences, T tokens."""

    ends: np.ndarray
    """(S + 1,) the offsets."""
    groups: np.ndarray
    """Boundaries of at most `GROUPS` runs of sequences with about equal tokens; depends on the lengths alone."""
    runs: np.ndarray
    """Fewer such groups, of `RUN_TOKENS` tokens or more on average: for what sums all weights' gradients by group."""
    chunks: np.ndarray
    """(S + 1,) where each sequence's chunks begin among all."""
    before: Tensor
    """(T,) int64: how many tokens of its own sequence a token has before itself."""
    after: Tensor
    """(T,) int64, and after itself."""


_ZERO, _TRUE = np.zeros(1, np.int64), np.ones(1, bool)
_remembered: MutableMapping[Tensor, tuple[Tensor, Layout]] = WeakIdKeyDictionary()
"""Offsets → a copy of them, as somebody may write to a tensor, and their layout."""


def layout_of(offsets: Tensor, tokens: int) -> Layout:
    """The layout of `tokens` packed tokens.

    Raises:
        ValueError: the offsets do not cut them into sequences of at least one.
    """
    held = _remembered.get(offsets)
    if held is not None and len(held[1].before) == tokens and torch.equal(held[0], offsets):
        return held[1]
    check_offsets(offsets, tokens)
    ends = offsets.numpy().copy()
    lengths, position = np.diff(ends), np.arange(tokens)
    before = position - np.repeat(ends[:-1], lengths)
    after = np.repeat(ends[1:] - 1, lengths) - position
    groups = _group(ends)
    chunks = np.concatenate([_ZERO, np.cumsum(-(-lengths // EVERY))])
    runs = _fewer(groups, max(1, tokens // RUN_TOKENS))
    found = Layout(ends, groups, runs, chunks, torch.from_numpy(before), torch.from_numpy(after))
    _remembered[offsets] = offsets.clone(), found
    return found


def _group(ends: np.ndarray) -> np.ndarray:
    count = len(ends) - 1
    targets = ends[-1] * np.arange(1, min(GROUPS, count)) // min(GROUPS, count)
    cuts = np.concatenate([_ZERO, np.searchsorted(ends, targets), _ZERO + count])
    kept: np.ndarray = cuts[np.concatenate([_TRUE, np.diff(cuts) > 0])]
    return kept


def _fewer(groups: np.ndarray, most: int) -> np.ndarray:
    count = len(groups) - 1
    return groups if count <= most else groups[np.arange(most + 1) * count // most]
