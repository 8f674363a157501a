"""Mamba on packed sequences, in one direction and in both.

Glossary, code → Mamba paper (arXiv:2312.00752, section 3.4 and figure 3); parameter names are mamba_ssm's `Mamba`:
    in_proj     expands the input to the scan's branch and the gate's (z)
    conv1d      short causal convolution before the scan
    x_proj      input → Δ (low rank), B, C: the selection
    dt_proj     low-rank Δ → every channel, then softplus
    A_log, D    A = −exp(A_log); D is the skip
    out_proj    back to the model's width

Shapes: T packed tokens, M model width, C = expand · M channels, N state, R rank of Δ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossllm.model.scan.backends import choose_backend
from crossllm.model.scan.conv import causal_conv
from crossllm.model.scan.selective_scan import selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4
"""Range that Δ starts in, from the Mamba paper's section 3.6 and its code."""

_WEIGHTS = (
    ("in_proj", "weight"), ("conv1d", "weight"), ("conv1d", "bias"), ("x_proj", "weight"), ("dt_proj", "weight"),
    ("dt_proj", "bias"), ("", "A_log"), ("", "D"), ("out_proj", "weight"),
)  # fmt: skip
FUSED_WIDTH = 16
"""Widths that are a multiple of it are computed by the kernels of `crossllm.model.fused`."""


class Mamba(nn.Module):
    """One direction: (T, M) → (T, M), every sequence on its own."""

    def __init__(
        self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, backend: str = "auto"
    ) -> None:
        super().__init__()
        channels, rank = expand * d_model, math.ceil(d_model / 16)
        self.d_state, self.rank, self.backend = d_state, rank, backend
        self.in_proj = nn.Linear(d_model, 2 * channels, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        self.x_proj = nn.Linear(channels, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1).repeat(channels, 1)))
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, d_model, bias=False)
        self._start_dt()

    def _start_dt(self) -> None:
        """Δ starts log-uniform in [DT_MIN, DT_MAX]: the bias is softplus⁻¹ of it."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        dt = torch.exp(torch.empty(len(self.D)).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp(min=DT_FLOOR)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x: Tensor, offsets: Tensor, reverse: bool = False) -> Tensor:
        """X (T, M), offsets (S+1,) → (T, M); `reverse` runs convolution and scan from each sequence's end."""
        _, gate, u = self.expand(x, offsets, reverse)
        delta, B, C = self.select(u)
        y = selective_scan(u, delta, self.A, B, C, self.D, offsets, reverse, self.backend)
        out: Tensor = self.out_proj(y * gate)
        return out

    def expand(self, x: Tensor, offsets: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """X (T, M) → what the convolution reads, the gate silu(z), and u, what it gives the scan; (T, C) each."""
        # Convolution, scan, Δ and A stay in float32 whatever autocast does: states overflow half precision.
        before, z = self.in_proj(x).chunk(2, dim=-1)
        before = before.to(self.A_log.dtype)
        u = F.silu(causal_conv(before, self.conv_weight, self.conv_bias, offsets, reverse, self.backend))
        return before, F.silu(z), u

    def select(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U (T, C) → Δ (T, C), B and C (T, N): the selection."""
        full = self.A_log.dtype
        low, B, C = torch.split(self.x_proj(u), [self.rank, self.d_state, self.d_state], dim=-1)
        delta = F.softplus(self.dt_proj(low))
        return delta.to(full), B.to(full).contiguous(), C.to(full).contiguous()

    @property
    def weights(self) -> list[Tensor]:
        """In the order of `crossllm.model.fused.block.Weights`; looked up where torch keeps them: ten times as fast."""
        own: dict[str, nn.Module | None] = {**self._modules, "": self}
        found = [None if (of := own[module]) is None else of._parameters[name] for module, name in _WEIGHTS]
        return [weight for weight in found if weight is not None]

    @property
    def A(self) -> Tensor:  # noqa: N802 - the paper's name
        """(C, N), negative."""
        return -torch.exp(self.A_log)

    @property
    def conv_weight(self) -> Tensor:
        """(C, W); the last tap is the token's own."""
        return self.conv1d.weight[:, 0]

    @property
    def conv_bias(self) -> Tensor:
        """(C,)."""
        assert self.conv1d.bias is not None  # Conv1d was made with one
        return self.conv1d.bias


class BiMamba(nn.Module):
    """Residual block of a forward and a backward `Mamba`: x + fwd(norm x) + bwd(norm x).

    With `bidirectional=False` only the forward one: the ablation.  Each direction has its own weights, so reversing
    every sequence and swapping the two reverses the output.
    """

    def __init__(self, d_model: int, d_state: int = 16, bidirectional: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.fwd = Mamba(d_model, d_state, backend=backend)
        self.bwd = Mamba(d_model, d_state, backend=backend) if bidirectional else None

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(T, M) → (T, M)."""
        if self.is_fused(x):
            from crossllm.model.fused.block import block  # compiles, so only where it is used

            weights = self.fwd.weights + ([] if self.bwd is None else self.bwd.weights)
            return block(x, self.norm.weight, self.norm.bias, self.norm.eps, weights, offsets)
        normed = self.norm(x)
        y: Tensor = x + self.fwd(normed, offsets)
        if self.bwd is not None:
            y = y + self.bwd(normed, offsets, reverse=True)
        return y

    def is_fused(self, x: Tensor) -> bool:
        """Whether the kernels of `crossllm.model.fused` compute all of it."""
        fits = x.dtype == self.norm.weight.dtype == torch.float32 and x.shape[1] % FUSED_WIDTH == 0
        return fits and not torch.is_autocast_enabled(x.device.type) and choose_backend(x, self.fwd.backend) == "numba"

    def takes_states(self, x: Tensor) -> bool:
        """Whether the backend of a tensor like `x` can start a scan from given states."""
        return choose_backend(x, self.fwd.backend) != "mamba_ssm"
