"""The concordance index by a compiled kernel.

Shapes: R replicates, P pairs.
"""

from __future__ import annotations

import numpy as np

from crossllm.kernels import kernel


def concordance(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the pairs of pairs with different labels that the scores order alike, equal scores counting half.

    Harrell et al., JAMA 1982;247:2543; in affinity prediction since Gönen & Heller, Biometrika 2005;92:965.
    """
    order = np.argsort(label, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(label[order])), len(label) - 1) + 1  # of each run of equal labels
    _, rank = np.unique(score, return_inverse=True)
    found: np.ndarray = _ordered_alike(ends, rank[order], np.ascontiguousarray(weights[:, order]))
    return found


@kernel()
def _ordered_alike(ends, rank, weights):  # type: ignore[no-untyped-def]
    """One pass by rising label a replicate over a Fenwick tree of the scores seen so far: O(P log P), not O(P²).

    Equal labels are all counted against the tree before any of them is entered.
    """
    replicates = len(weights)
    size = rank.max() + 1
    found = np.empty(replicates)
    for r in range(replicates):
        tree, own = np.zeros(size + 1), np.zeros(size)
        alike = compared = seen = 0.0
        start = 0
        for end in ends:
            for n in range(start, end):
                below, at = 0.0, rank[n]
                while at > 0:  # weight of the scores below this one
                    below += tree[at]
                    at -= at & -at
                alike += weights[r, n] * (below + 0.5 * own[rank[n]])
                compared += weights[r, n] * seen
            for n in range(start, end):
                own[rank[n]] += weights[r, n]
                seen += weights[r, n]
                at = rank[n] + 1
                while at <= size:
                    tree[at] += weights[r, n]
                    at += at & -at
            start = end
        found[r] = alike / compared if compared > 0 else np.nan
    return found
