"""The fusion model: selective scan, BiMamba, Cross-Mamba, losses.  Imports nothing of ours.

One batch goes `CrossMamba.forward` → `BiMamba` → `Mamba` → `selective_scan`.
"""

from model.bimamba import BiMamba, Mamba
from model.fusion import Batch, CrossMamba, ModelConfig
from model.losses import affinity_loss, focal_loss
from model.scan import selective_scan

__all__ = ["Batch", "BiMamba", "CrossMamba", "Mamba", "ModelConfig", "affinity_loss", "focal_loss", "selective_scan"]
