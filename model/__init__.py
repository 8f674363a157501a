"""The fusion model: selective scan, BiMamba, Cross-Mamba, losses.  Imports nothing of ours.

`scan/` is the room of the selective scan and its backends.
One batch goes `InteractionModel.forward` → `BiMamba` (an encoder a side) → `CrossMamba` → `mixed_mean` → `scan_states`.
"""

from crossllm.model.batch import Batch, Packed
from crossllm.model.bimamba import BiMamba, Mamba
from crossllm.model.interaction import InteractionModel, ModelConfig
from crossllm.model.losses import affinity_loss, bce_loss, focal_loss
from crossllm.model.scan.selective_scan import selective_scan

__all__ = [
    "Batch",
    "BiMamba",
    "InteractionModel",
    "Mamba",
    "ModelConfig",
    "Packed",
    "affinity_loss",
    "bce_loss",
    "focal_loss",
    "selective_scan",
]
