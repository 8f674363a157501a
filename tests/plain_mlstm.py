"""UniRep's equations, one sequence and one step at a time, in float64: the reference of the packed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor


def plain_rows(ids: Sequence[int], tensors: Mapping[str, Tensor], start: int) -> np.ndarray:
    """(1 + L, D): the last layer's h after the start token and after each of `ids`."""
    known = {name: tensor.numpy().astype(np.float64) for name, tensor in tensors.items()}
    rows = [known["embedding"][token] for token in (start, *ids)]
    for layer in range(sum(name.endswith(".b") and name.startswith("mlstm.") for name in known)):
        own = {name.removeprefix(f"mlstm.{layer}."): array for name, array in known.items()}
        w = {name: own[f"w{name}"] / np.linalg.norm(own[f"w{name}"], axis=0) * own[f"g{name}"] for name in MATRICES}
        h = c = np.zeros(len(own["b"]) // 4)
        found = []
        for x in rows:
            m = (x @ w["mx"]) * (h @ w["mh"])
            i, f, o, u = np.split(x @ w["x"] + m @ w["h"] + own["b"], 4)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(u)
            h = _sigmoid(o) * np.tanh(c)
            found.append(h)
        rows = found
    return np.stack(rows)


MATRICES = ("mx", "mh", "x", "h")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))  # type: ignore[no-any-return]
