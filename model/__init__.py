"""The fusion model: selective scan, BiMamba, Cross-Mamba, losses.  Imports nothing of ours.

`scan/` is the room of the selective scan and its backends.
One batch goes `InteractionModel.forward` → `BiMamba` (an encoder a side) → `CrossMamba` → `mixed_mean` → `scan_states`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossllm.model.batch import Batch, Packed
    from crossllm.model.bimamba import BiMamba, Mamba
    from crossllm.model.interaction import InteractionModel
    from crossllm.model.losses import affinity_loss, bce_loss, focal_loss
    from crossllm.model.scan.selective_scan import selective_scan
    from crossllm.model.settings import ModelConfig

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
_HOMES = {
    "batch": ("Batch", "Packed"),
    "bimamba": ("BiMamba", "Mamba"),
    "interaction": ("InteractionModel",),
    "losses": ("affinity_loss", "bce_loss", "focal_loss"),
    "scan.selective_scan": ("selective_scan",),
    "settings": ("ModelConfig",),
}
"""Module → its public names, imported when one is asked for: the settings alone need no torch."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"crossllm.model.{module}"), name)
    raise AttributeError(f"module 'crossllm.model' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
