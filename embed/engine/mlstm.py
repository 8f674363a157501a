"""The packed multiplicative LSTM of UniRep: many sequences advance together, and no step computes a pad.

For one layer, with x_t its input, h and c the state after the step before (⊙ elementwise):

    m_t = (W_mx x_t) ⊙ (W_mh h)
    i, f, o, u = W_x x_t + W_h m_t + b          cut into four in this order
    c_t = σ(f) ⊙ c + σ(i) ⊙ tanh(u)             h_t = σ(o) ⊙ tanh(c_t)

Every W is weight-normalised: the weights into a unit are those stored, divided by their own length, times the unit's g.
A layer of the stack reads the h_t of the one below.  Before the first residue stands the start token, whose state is
the same for every sequence: it is computed once, when the model is loaded.

Sequences lie one after the other, as in `transformer`.  They are taken longest first, so that those which still run at
step t are the first n of them.  What does not depend on the state (W_mx x, W_x x + b) is one product over all tokens,
or, where the tokens are letters, over the letters.  State and gates are float32 whatever the products are computed in.

Sources: Krause et al. 2016, the multiplicative LSTM (arXiv 1609.07959); Salimans & Kingma 2016,
weight normalisation, equation 2 (arXiv 1602.07868); Alley et al. 2019, UniRep (Nat Methods 16:1315).
Shapes: T packed tokens, D width, n sequences that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossllm.embed.engine.linear import Linear, Packed, packed

_TINY = 1e-12
"""Least square of a length that stored weights are divided by."""


class Stack(NamedTuple):
    """The sizes of a model."""

    width: int
    layers: int
    letters: int = 26
    """Tokens of its alphabet."""
    token_width: int = 10


class Cell(NamedTuple):
    """One layer's matrices, weight-normalised, in the type they are computed in."""

    inputs: Linear | Packed
    """(5 D, in): W_mx, and below it W_x, and the bias b of the latter."""
    hidden: Linear | Packed
    """(D, D): W_mh."""
    gates: Linear | Packed
    """(4 D, D): W_h."""


class State(NamedTuple):
    """Of the sequences that run, float32."""

    h: Tensor
    """(n, D)"""
    c: Tensor
    """(n, D)"""


class Steps(NamedTuple):
    """Which packed tokens are computed at each step."""

    places: tuple[Tensor, ...]
    """A step's tokens as places among the packed ones, (n,) int64, longest sequence first; n never grows."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Steps:
        """The steps of sequences of these lengths, each at least 1, that lie one after the other."""
        all_lengths = np.asarray(lengths, np.int64)
        order = np.argsort(-all_lengths, kind="stable")
        falling = all_lengths[order]
        starts = (np.cumsum(all_lengths) - all_lengths)[order]
        running = np.searchsorted(-falling, -np.arange(falling[0]), side="left")  # how many are longer than t
        step = np.repeat(np.arange(falling[0]), running)
        lane = np.arange(len(step)) - np.repeat(np.cumsum(running) - running, running)
        return cls(torch.split(torch.from_numpy(starts[lane] + step).to(device), running.tolist()))


def expected_shapes(stack: Stack) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that the model is made of, matrices as (in, out)."""
    width = stack.width
    shapes: dict[str, tuple[int, ...]] = {"embedding": (stack.letters, stack.token_width)}
    for n in range(stack.layers):
        into = width if n else stack.token_width
        matrices = {"mx": (into, width), "mh": (width, width), "x": (into, 4 * width), "h": (width, 4 * width)}
        for name, shape in matrices.items():
            shapes |= {f"mlstm.{n}.w{name}": shape, f"mlstm.{n}.g{name}": shape[1:]}
        shapes[f"mlstm.{n}.b"] = (4 * width,)
    return shapes


class MultiplicativeLSTM:
    """A stack of cells over packed sequences."""

    def __init__(
        self, tensors: Mapping[str, Tensor], stack: Stack, start: int, compute: torch.dtype, device: torch.device
    ) -> None:
        """`tensors` has those of `expected_shapes`; `start` is the token before every sequence."""
        self.device, self._compute = device, compute
        first, *deeper = (_weights(tensors, n, device) for n in range(stack.layers))
        # There are no more rows than letters, so that float32 costs nothing here.
        self._letters = F.linear(tensors["embedding"].to(device, torch.float32), first.inputs, first.bias)
        self._cells = [_cell(weights, compute) for weights in (first, *deeper)]
        zeros = torch.zeros(1, stack.width, device=device)
        self._starts = [State(zeros, zeros)] * stack.layers
        token = torch.tensor([start], device=device)
        _, self._starts = self._through(token, Steps.of([1], device))

    @property
    def start(self) -> Tensor:
        """(1, D): the last layer's h after the start token, before any residue."""
        return self._starts[-1].h

    def rows(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """(T, D) float32: the last layer's h at each of the packed tokens `ids` (T,), sequence after sequence.

        Args:
            ids: int64, without the start token, on the model's device.
            lengths: of the sequences; each at least 1.
        """
        return self._through(ids, Steps.of(lengths, self.device))[0]

    @torch.inference_mode()
    def _through(self, ids: Tensor, steps: Steps) -> tuple[Tensor, list[State]]:
        """The rows, and the state in which each layer ends."""
        rows, ends = torch.empty(0), []
        for n, (cell, state) in enumerate(zip(self._cells, self._starts, strict=True)):
            # A layer above the first reads rows of the one below, for which a product over all tokens is the fastest.
            inputs = None if n == 0 else cell.inputs(rows.to(self._compute))
            rows = torch.empty(len(ids), state.h.shape[1], device=self.device)
            for places in steps.places:
                taken = self._letters.index_select(0, ids[places]) if inputs is None else inputs.index_select(0, places)
                state = self._step(cell, taken.float(), State(*(part[: len(places)] for part in state)))
                rows.index_copy_(0, places, state.h)
            ends.append(state)
        return rows, ends

    def _step(self, cell: Cell, x: Tensor, before: State) -> State:
        """The state after a step; `x` (n, 5 D) is what its inputs give."""
        width = before.h.shape[1]
        m = x[:, :width] * cell.hidden(before.h.to(self._compute))
        z = x[:, width:] + cell.gates(m.to(self._compute))
        i, f, o, u = z.chunk(4, dim=1)
        c = f.sigmoid() * before.c + i.sigmoid() * u.tanh()
        return State(o.sigmoid() * c.tanh(), c)


class _Weights(NamedTuple):
    """One layer's matrices as products take them, (out, in), weight-normalised, float32."""

    inputs: Tensor
    """(5 D, in)"""
    hidden: Tensor
    """(D, D)"""
    gates: Tensor
    """(4 D, D)"""
    bias: Tensor
    """(5 D,): zeros for W_mx, then b."""


def _weights(tensors: Mapping[str, Tensor], layer: int, device: torch.device) -> _Weights:
    def own(name: str) -> Tensor:
        return tensors[f"mlstm.{layer}.{name}"].to(device, torch.float32)

    def normalised(name: str) -> Tensor:
        w = own(f"w{name}")
        return (w * (own(f"g{name}") / w.square().sum(dim=0).clamp(min=_TINY).sqrt())).T

    b = own("b")
    return _Weights(
        torch.cat([normalised("mx"), normalised("x")]),
        normalised("mh").contiguous(),
        normalised("h").contiguous(),
        torch.cat([b.new_zeros(len(b) // 4), b]),
    )


def _cell(weights: _Weights, compute: torch.dtype) -> Cell:
    inputs, hidden, gates, bias = (part.to(compute) for part in weights)
    return Cell(packed(Linear(inputs, bias)), packed(Linear(hidden, None)), packed(Linear(gates, None)))
