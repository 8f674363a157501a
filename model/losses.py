"""Losses of the fusion model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossllm.model.settings import FOCAL_ALPHA, FOCAL_GAMMA, MSE_WEIGHT

PEARSON_FLOOR = 1e-8


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


def bce_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross-entropy, the loss that the paper's ablation puts beside the focal one; shapes as there."""
    return F.binary_cross_entropy_with_logits(logit, label)


def affinity_loss(prediction: Tensor, target: Tensor, mse_weight: float = MSE_WEIGHT) -> Tensor:
    """α · MSE + (1 − α) · (1 − Pearson), the affinity loss of CrossLLM-Mamba (arXiv:2602.22236, training section).

    Args:
        prediction: (P,), in units of the scaled target.
        target: (P,), affinities scaled to mean 0 and variance 1 over the training part.
        mse_weight: α, 0 to 1.

    The correlation is of the pairs given, so of one batch in training; where it is undefined, over a single pair or a
    constant target, its term is 1 and has no gradient.
    """
    mse = F.mse_loss(prediction, target)
    x, y = prediction - prediction.mean(), target - target.mean()
    # The small number keeps the gradient finite where a batch's predictions are all alike.
    pearson = (x * y).sum() / (x.square().sum() * y.square().sum() + PEARSON_FLOOR).sqrt()
    return mse_weight * mse + (1 - mse_weight) * (1 - pearson)
