"""The selective scan on packed sequences: one signature, several backends, each held to `reference`.

Glossary, code → Mamba paper (Gu & Dao 2023, arXiv:2312.00752, algorithm 2):
    u      x, the input of the state space model          (T, C)
    delta  Δ, the step size, positive                     (T, C)
    A      A, negative, diagonal                          (C, N)
    B, C   B and C, chosen by the input (the selection)   (T, N)
    D      D, the skip                                    (C,)
Discretised as the paper's code does: Ā = exp(ΔA), B̄ = ΔB; h_t = Ā h_{t−1} + B̄ x_t; y_t = C h_t + D x_t.

Shapes: T packed tokens, the sequences one after the other; C channels; N state; S sequences.
`offsets` (S+1) says where each sequence starts and ends.  The state starts at zero in every sequence; with `reverse`
it runs from each sequence's last token to its first, so nothing is flipped and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from model.backends import choose_backend
from model.checks import check_beside, check_matrices, check_offsets

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool], Tensor]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    offsets: Tensor,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """y, shape (T, C), differentiable in all six tensors.

    Args:
        u, delta: (T, C); `delta` after its softplus.
        A: (C, N), negative.
        B, C: (T, N).
        D: (C,).
        offsets: (S+1,) int64 on the CPU, from 0 to T, strictly increasing.
        reverse: scan each sequence from its end.
        backend: a name of `model.backends`; `auto` takes triton on CUDA, numba for float32 on the CPU, else reference.

    Raises:
        ValueError: a shape, a type or a device does not fit u, a sequence is empty, or the backend cannot take these
            tensors.
    """
    _check(u, delta, A, B, C, D, offsets)
    return BACKENDS[choose_backend(u, backend)](u, delta, A, B, C, D, offsets, reverse)


def scan_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, offsets: Tensor, reverse: bool
) -> Tensor:
    """The recurrence as the paper writes it, step by step, in plain torch; any float type, any device."""
    rows = list(zip(u.unbind(), delta.unbind(), B.unbind(), C.unbind(), strict=True))
    outputs = []
    for start, stop in pairwise(offsets.tolist()):
        h = u.new_zeros(A.shape)  # (C, N)
        steps = []
        for t in reversed(range(start, stop)) if reverse else range(start, stop):
            x, size, b, c = rows[t]
            h = torch.exp(size[:, None] * A) * h + (size * x)[:, None] * b
            steps.append(h @ c + D * x)
        outputs.append(torch.stack(steps[::-1] if reverse else steps))
    return torch.cat(outputs)


def _scan_numba(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, offsets: Tensor, reverse: bool
) -> Tensor:
    from model.scan_numba import scan  # compiles, so only where it is used

    return scan(u, delta, A, B, C, D, offsets, reverse)


def _scan_triton(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, offsets: Tensor, reverse: bool
) -> Tensor:
    from model.scan_triton import scan

    return scan(u, delta, A, B, C, D, offsets, reverse)


def _scan_mamba_ssm(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, offsets: Tensor, reverse: bool
) -> Tensor:
    from model.scan_mamba_ssm import scan

    return scan(u, delta, A, B, C, D, offsets, reverse)


BACKENDS: dict[str, Scan] = {
    "reference": scan_reference,
    "numba": _scan_numba,
    "triton": _scan_triton,
    "mamba_ssm": _scan_mamba_ssm,
}


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, offsets: Tensor) -> None:
    check_matrices(u=u, A=A)
    (tokens, channels), states = u.shape, A.shape[1]
    expected = {
        "delta": (delta, (tokens, channels)),
        "A": (A, (channels, states)),
        "B": (B, (tokens, states)),
        "C": (C, (tokens, states)),
        "D": (D, (channels,)),
    }
    check_beside("u", u, expected)
    check_offsets(offsets, tokens)
