"""Losses of the fusion model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_GAMMA = 2.0
"""Lin et al. 2017 (arXiv:1708.02002), section 5.1; not from the CrossLLM-Mamba paper."""
FOCAL_ALPHA = 0.5
"""Weight of the positive class; 0.5 favours neither.  Not from the paper."""


def focal_loss(logit: Tensor, label: Tensor, gamma: float = FOCAL_GAMMA, alpha: float = FOCAL_ALPHA) -> Tensor:
    """Mean focal loss, Lin et al. 2017, equation 5: −α_t (1 − p_t)^γ log p_t.

    Args:
        logit: (P,).
        label: (P,), 0 or 1.
        gamma: 0 gives the α-weighted cross-entropy.
        alpha: weight of the positives, 1 − alpha that of the negatives.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    p_true = torch.exp(-cross_entropy)
    weight = torch.where(label > 0.5, alpha, 1 - alpha)
    return (weight * (1 - p_true) ** gamma * cross_entropy).mean()
