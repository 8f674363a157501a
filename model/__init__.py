"""The fusion model: selective scan, BiMamba, Cross-Mamba, losses.  Imports nothing of ours.

One batch goes `InteractionModel.forward` → `BiMamba` (an encoder a side) → `CrossMamba` → `mixed_mean` → `scan_states`.
"""

from model.batch import Batch, Packed
from model.bimamba import BiMamba, Mamba
from model.interaction import InteractionModel, ModelConfig
from model.losses import affinity_loss, focal_loss
from model.scan import selective_scan

__all__ = [
    "Batch",
    "BiMamba",
    "InteractionModel",
    "Mamba",
    "ModelConfig",
    "Packed",
    "affinity_loss",
    "focal_loss",
    "selective_scan",
]
