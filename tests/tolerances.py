"""The one tolerance table: relative to the largest magnitude of the reference, by dtype of the fast path."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def assert_close(found: Tensor, reference: Tensor, what: str, looser: float = 1.0) -> None:
    """Largest error of `found` against `reference`, over the reference's largest magnitude.

    A `looser` above 1 needs a comment with the measured error beside it.
    """
    found, reference = found.detach(), reference.detach()
    scale = float(reference.abs().max().clamp(min=1e-30))
    error = float((found.double() - reference.double()).abs().max()) / scale
    limit = RELATIVE[found.dtype] * looser
    assert error <= limit, f"{what}: relative error {error:.2e}, allowed {limit:.2e}"


ROWS = {"float32": 2e-5, "bfloat16": 3e-2}
"""Of embedded rows: largest difference over the largest value of the reference, by the type of the matrix products."""
