"""Which rows of one pair a model's output comes from, on arrays: integrated gradients, and rows taken out.

Integrated gradients (Sundararajan, Taly & Yan 2017, arXiv:1703.01365, equation 1) of one partner, along the straight
line from its baseline x' to its rows x while the other partner y stays as it is, summed over the D columns of a row:

    attribution_i = Σ_d (x_id − x'_id) ∫₀¹ ∂F(x' + α (x − x'), y) / ∂x_id dα      Σ_i attribution_i = F(x, y) − F(x', y)

So it says which rows of a partner speak for the pair, given the other.  Moving both at once asks something else, and
what it answers is no guide where the two only tell something together (docs/design/0017).  The integral is a sum over
the nodes of Gauss and Legendre.  The derivative is of the rows: where a token averages k of them it goes through that
mean, and where a model has summaries (`crossllm.model.summary`) through the rows' statistics as well, which are linear
along the line.

Written for packed rows, not by captum: its `IntegratedGradients` stacks the steps of every tensor that it is handed,
offsets too, and then gives attributions of the wrong size without a word.

Shapes: L rows of a sequence, T tokens, D width of a row, N steps, V variants of one pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from crossllm.model.batch import Batch, Packed
from crossllm.model.summary import summarise
from crossllm.model.tokens import window_mean

MOST_WINDOWS = 256
"""That a partner is covered by in occlusion; a longer one has windows further apart."""


class Forward(Protocol):
    """A model: packed rows of pairs → (P,) outputs."""

    def __call__(self, batch: Batch) -> Tensor:
        """(P,)."""


class Rows(NamedTuple):
    """One value for each partner, of any shape: rows (L, D), a baseline's row (D,), numbers of places (L,)."""

    a: np.ndarray
    b: np.ndarray


class Explained(NamedTuple):
    """The function F that is explained: a model's output in its unit, of pairs of rows, and the rows it counts from."""

    model: Forward
    baseline: Rows
    """(D_a,) and (D_b,) float32: the row that stands for nothing known."""
    window: int
    """Rows that a token averages."""
    statistics: bool = False
    """Whether the model reads the rows' statistics."""
    scale: float = 1.0
    """Unit of F an output: 1 of a logit, the deviation of the training affinities."""
    shift: float = 0.0
    most_tokens: int = 1 << 15
    """Of a batch, rows where they are differentiated; a single variant beyond it is a batch of its own."""
    device: torch.device = torch.device("cpu")


class Gradients(NamedTuple):
    """What integrated gradients give."""

    places: Rows
    """(L_a,), (L_b,) float64."""
    value: float
    """F(x, y)."""
    without: tuple[float, float]
    """F with the baseline's rows for A's, and for B's."""

    @property
    def errors(self) -> tuple[float, float]:
        """By how much each partner's attributions miss their sum, F − F without it: the steps' convergence error."""
        a, b = (float(own.sum()) - (self.value - other) for own, other in zip(self.places, self.without, strict=True))
        return a, b


class Windows(NamedTuple):
    """Stretches of one sequence, [start, stop) each."""

    starts: np.ndarray
    """(V,) int64."""
    stops: np.ndarray
    """(V,) int64."""


def integrated_gradients(f: Explained, rows: Rows, steps: int) -> Gradients:
    """Attributions of every row of both partners; float32 gradients, summed in float64.

    Args:
        f: what is explained.
        rows: (L_a, D_a), (L_b, D_b) float32.
        steps: N, nodes of the integral.
    """
    without = Rows(*(np.broadcast_to(base, own.shape) for base, own in zip(f.baseline, rows, strict=True)))
    value, *others = outputs(f, [rows, Rows(without.a, rows.b), Rows(rows.a, without.b)]).tolist()
    places = []
    for side, (own, base) in enumerate(zip(rows, f.baseline, strict=True)):
        slope = _mean_slope(f, rows, side, steps) * f.scale
        places.append(((own.astype(np.float64) - base) * slope).sum(1))
    return Gradients(Rows(*places), value, (others[0], others[1]))


def _mean_slope(f: Explained, rows: Rows, side: int, steps: int) -> np.ndarray:
    """(L, D) float64: ∂F/∂row of one partner, averaged over its path; a batch holds many steps."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    alphas, weights = (nodes + 1) / 2, weights / 2
    start, end = torch.from_numpy(f.baseline[side]), torch.from_numpy(np.ascontiguousarray(rows[side]))
    other, _ = _packed([_prepared(f, rows[1 - side])], f.device)
    slope = np.zeros(rows[side].shape)
    at_once = max(1, f.most_tokens // (len(end) + len(other.tokens)))
    for first in range(0, steps, at_once):
        part = slice(first, first + at_once)
        alpha = torch.from_numpy(alphas[part]).float()[:, None, None]
        points = (start + alpha * (end - start)).to(f.device).requires_grad_()
        own = _differentiable(f, points)
        each, same = torch.arange(len(alpha)), torch.zeros(len(alpha), dtype=torch.int64)
        label = torch.zeros(len(alpha), device=f.device)
        batch = Batch(own, other, each, same, label) if side == 0 else Batch(other, own, same, each, label)
        (found,) = torch.autograd.grad(f.model(batch).sum(), points)
        slope += np.tensordot(weights[part], found.double().cpu().numpy(), 1)
    return slope


def _differentiable(f: Explained, points: Tensor) -> Packed:
    """Rows (N, L, D) of N sequences as a model reads them, differentiable: means of windows, and statistics."""
    count, length, width = points.shape
    k = min(f.window, length)
    full = length // k
    parts = [points[:, : full * k].reshape(count, full, k, width).mean(2)]
    if full * k < length:
        parts.append(points[:, full * k :].mean(1, keepdim=True))
    tokens = torch.cat(parts, 1)
    packed = Packed(tokens.flatten(0, 1), torch.arange(count + 1) * tokens.shape[1])
    if not f.statistics:
        return packed
    return packed._replace(statistics=summarise(Packed(points.flatten(0, 1), torch.arange(count + 1) * length)))


def outputs(f: Explained, variants: Iterable[Rows]) -> np.ndarray:
    """(V,) float64: F of variants of a pair, rows (L, D) each.

    A side that variants share, as one array, is encoded once a batch.
    """
    found = []
    for part in _batches(f, variants):
        sides = [_packed(list(side), f.device) for side in zip(*part, strict=True)]
        (a, a_index), (b, b_index) = sides
        with torch.inference_mode():
            output = f.model(Batch(a, b, a_index, b_index, torch.zeros(len(part), device=f.device)))
        found.append(output.double().cpu().numpy())
    values: np.ndarray = np.concatenate(found) * f.scale + f.shift
    return values


def windows_of(length: int, width: int) -> Windows:
    """Windows of `width` rows that cover a sequence, each row's own where it is short, at most `MOST_WINDOWS`.

    The last one ends with the sequence.
    """
    stride = -(-length // MOST_WINDOWS)
    width = min(max(width, stride), length)
    starts = np.unique(np.append(np.arange(0, length - width + 1, stride), length - width))
    return Windows(starts, starts + width)


def occlusion(f: Explained, rows: Rows, windows: tuple[Windows, Windows]) -> Rows:
    """(V_a,), (V_b,) float64: how much F falls where a window's rows are replaced by the baseline's row.

    Zeiler & Fergus 2014 (arXiv:1311.2901, section 4.2), with the baseline for their grey square.
    """
    whole = outputs(f, [rows])
    spans = [list(zip(*own, strict=True)) for own in windows]
    a = outputs(f, (Rows(_replaced(rows.a, f.baseline.a, span), rows.b) for span in spans[0]))
    b = outputs(f, (Rows(rows.a, _replaced(rows.b, f.baseline.b, span)) for span in spans[1]))
    return Rows(whole - a, whole - b)


def over_places(values: np.ndarray, windows: Windows, length: int) -> np.ndarray:
    """(L,) the share of a place in the values (V,) of the windows over it: the mean of value / width."""
    total, count = np.zeros(length), np.zeros(length)
    for value, start, stop in zip(values, *windows, strict=True):
        total[start:stop] += value / (stop - start)
        count[start:stop] += 1
    return total / count


def over_windows(places: np.ndarray, windows: Windows) -> np.ndarray:
    """(V,) sums of the places' values (L,) in each window."""
    sums = np.concatenate([[0.0], np.cumsum(places)])
    found: np.ndarray = sums[windows.stops] - sums[windows.starts]
    return found


def deleted(f: Explained, rows: Rows, orders: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """(orders, counts) float64: F without the first `count` places of each order, the baseline's row in their stead.

    Args:
        f: what is explained.
        rows: (L_a, D_a), (L_b, D_b).
        orders: (L_a + L_b,) places of both partners, those of B after those of A.
        counts: places that are deleted.
    """

    def variants() -> Iterator[Rows]:
        for order in orders:
            for count in counts:
                gone = np.zeros(len(rows.a) + len(rows.b), bool)
                gone[order[:count]] = True
                parts = gone[: len(rows.a)], gone[len(rows.a) :]
                a, b = (np.where(part[:, None], *both) for part, *both in zip(parts, f.baseline, rows, strict=True))
                yield Rows(a, b)

    return outputs(f, variants()).reshape(len(orders), len(counts))


def _replaced(rows: np.ndarray, base: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """(L, D): the rows [start, stop) replaced."""
    found = rows.copy()
    found[slice(*span)] = base
    return found


class _Prepared(NamedTuple):
    """One sequence as a model reads it."""

    tokens: np.ndarray
    """(T, D)."""
    statistics: Tensor | None
    """(1, 3 D), or None for a model that does not read them."""


def _prepared(f: Explained, rows: np.ndarray) -> _Prepared:
    whole = Packed(torch.from_numpy(np.ascontiguousarray(rows)), torch.tensor([0, len(rows)]))
    return _Prepared(window_mean(rows, f.window), summarise(whole) if f.statistics else None)


def _batches(f: Explained, variants: Iterable[Rows]) -> Iterator[list[tuple[_Prepared, _Prepared]]]:
    """The tokens of the variants, as many together as `most_tokens` allows."""
    part: list[tuple[_Prepared, _Prepared]] = []
    size = 0
    last: list[tuple[np.ndarray, _Prepared] | None] = [None, None]
    for variant in variants:
        for side, rows in enumerate(variant):
            if (held := last[side]) is None or held[0] is not rows:
                last[side] = rows, _prepared(f, rows)
        a, b = (held[1] for held in last if held is not None)
        new = len(a.tokens) + len(b.tokens)
        if part and size + new > f.most_tokens:
            yield part
            part, size = [], 0
        part.append((a, b))
        size += new
    if part:
        yield part


def _packed(sides: list[_Prepared], device: torch.device) -> tuple[Packed, Tensor]:
    """Sequences packed, each distinct one once, and the place of each: (P,) int64."""
    distinct = {id(prepared.tokens): prepared for prepared in sides}
    numbers = {found: number for number, found in enumerate(distinct)}
    offsets = torch.tensor([0, *np.cumsum([len(prepared.tokens) for prepared in distinct.values()]).tolist()])
    tokens = torch.from_numpy(np.concatenate([prepared.tokens for prepared in distinct.values()]))
    held = [prepared.statistics for prepared in distinct.values() if prepared.statistics is not None]
    packed = Packed(tokens, offsets, torch.cat(held) if held else None).to(device)
    return packed, torch.tensor([numbers[id(prepared.tokens)] for prepared in sides])
