"""The selective scan on packed sequences: one signature, several backends, each held to `model/scan/reference.py`.

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

import torch
from torch import Tensor

from crossllm.model.batch import Packed, segment_sum
from crossllm.model.scan import autograd, reference
from crossllm.model.scan.autograd import Inputs, Kernels
from crossllm.model.scan.backends import choose_backend
from crossllm.model.scan.layout import layout_of
from crossllm.model.scan.validation import check_beside, check_matrices


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
        backend: a name of `backends.py`; `auto` takes triton on CUDA, numba for float32 on the CPU, else reference.

    Raises:
        ValueError: a shape, a type or a device does not fit u, a sequence is empty, or the backend cannot take these
            tensors.
    """
    _check(u, delta, A, B, C, D, offsets)
    chosen = choose_backend(u, backend)
    if chosen == "mamba_ssm":
        from crossllm.model.scan import mamba_ssm_scan

        return mamba_ssm_scan.scan(u, delta, A, B, C, D, offsets, reverse)
    kernels = _kernels(chosen)
    if kernels is None:
        return reference.scan(Inputs(u, delta, A, B, C, D), offsets, reverse)[0]
    return autograd.scan(kernels, Inputs(u, delta, A, B, C, D), None, offsets, reverse, False)[0]


def scan_states(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    offsets: Tensor,
    reverse: bool = False,
    backend: str = "auto",
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Y (T, C) and the states after each sequence (S, N, C), from the states before each; differentiable in all.

    Args:
        u, delta, A, B, C, D, offsets, reverse: as `selective_scan` has them.
        backend: likewise, but for `mamba_ssm`, whose kernel takes no states.
        initial: (S, N, C) states before each sequence, of the type of A; None: zero.

    Raises:
        ValueError: as `selective_scan` raises it; the tensors are of half precision, which states never are.
    """
    _check(u, delta, A, B, C, D, offsets)
    _refuse_half(u)
    if initial is not None:
        check_beside("A", A, {"initial": (initial, (len(offsets) - 1, A.shape[1], A.shape[0]))})
    kernels = _kernels(choose_backend(u, backend))
    if kernels is None:
        return reference.scan(Inputs(u, delta, A, B, C, D), offsets, reverse, initial)
    return autograd.scan(kernels, Inputs(u, delta, A, B, C, D), initial, offsets, reverse, True)


def scan_reach(
    gate: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    offsets: Tensor,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """What a sequence's gated outputs sum to, whatever the state h₀ before it: Σ_t gate_t y_t = P + Σ_n h₀ W.

    The scan is linear in its state, so P (S, C) is the sum from a zero state, and W (S, N, C) is
    Σ_t gate_t C_t Π_{s ≤ t} Ā_s.  Differentiable in all seven tensors.

    Args:
        gate: (T, C).
        u, delta, A, B, C, D, offsets, reverse, backend: as `scan_states` has them.

    Raises:
        ValueError: as `scan_states` raises it.
    """
    _check(u, delta, A, B, C, D, offsets)
    _refuse_half(u)
    check_beside("u", u, {"gate": (gate, tuple(u.shape))})
    x = Inputs(u, delta, A, B, C, D)
    kernels = _kernels(choose_backend(u, backend))
    if kernels is None:
        y, _ = reference.scan(x, offsets, reverse)
        return segment_sum(Packed(gate * y, offsets)), reference.reach(gate, x, offsets, reverse)
    return autograd.reach(kernels, gate, x, offsets, reverse)


def _refuse_half(u: Tensor) -> None:
    if u.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(f"states of a scan are float32 or float64, and so is all beside them; got {u.dtype}")


def _kernels(chosen: str) -> Kernels | None:
    """Of a backend, compiled where it is used first; None: the reference has none."""
    if chosen == "numba":
        from crossllm.model.scan import numba_scan

        return numba_scan
    if chosen == "triton":
        from crossllm.model.scan import triton_scan

        return triton_scan
    if chosen == "mamba_ssm":
        raise ValueError("scan backend mamba_ssm takes and gives no states; use triton, or auto")
    return None


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
    layout_of(offsets, tokens)
