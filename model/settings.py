"""What a user may choose of a model, and its defaults.  Imports no torch: whoever only asks for a split needs none."""

from __future__ import annotations

from dataclasses import dataclass, field

FUSIONS = ("cross_mamba", "concat", "gated", "cross_attention")
"""Names of the modules of `model/fusion.py`."""
ORDERS = ("ab", "ba", "both")
"""Of the partners in Cross-Mamba's sequence."""
BACKENDS = ("reference", "numba", "triton", "mamba_ssm")
"""Of the scan and the convolution (`model/scan/backends.py`)."""
FOCAL_GAMMA = 2.0
"""Lin et al. 2017 (arXiv:1708.02002), section 5.1; not from the CrossLLM-Mamba paper."""
FOCAL_ALPHA = 0.5
"""Weight of the positive class; 0.5 favours neither.  Not from the paper."""
MSE_WEIGHT = 0.5
"""α of the affinity loss; not from the paper."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of an `InteractionModel`.  The paper's summary gives none of these numbers: defaults are ours.

    A field's metadata says what a user may set it to; `crossllm.pipeline.training.config` checks it.
    """

    d_model: int = field(default=32, metadata={"range": (1, 4096)})
    """Width M of projections, encoders and mixer (not from the paper)."""
    d_state: int = field(default=16, metadata={"range": (1, 256)})
    """State N of the scan (the Mamba paper's default)."""
    encoder_layers: int = field(default=1, metadata={"range": (0, 64)})
    """BiMamba blocks a modality encoder stacks (not from the paper)."""
    mixer_layers: int = field(default=1, metadata={"range": (0, 64)})
    """BiMamba blocks of the Cross-Mamba mixer (not from the paper)."""
    noise: float = field(default=0.1, metadata={"range": (0.0, 1e3)})
    """Standard deviation σ of ε, added to the projections in training (not from the paper)."""
    dropout: float = field(default=0.3, metadata={"range": (0.0, 0.99)})
    """In the head and the summaries (not from the paper)."""
    summary_width: int = field(default=128, metadata={"range": (0, 4096), "before": 0})
    """Width W of z, what an entity's rows are on the whole (`model/summary.py`); 0: without (not from the paper)."""
    standardise: bool = True
    """Scale each column of the tokens to mean 0 and deviation 1 over the training part first (not from the paper)."""
    bidirectional: bool = True
    """False leaves out every backward scan: an ablation."""
    fusion: str = field(default="cross_mamba", metadata={"one_of": FUSIONS})
    """How two encoded partners become one vector (`model/fusion.py`)."""
    order: str = field(default="ab", metadata={"one_of": ORDERS})
    """Of the partners in S; `both` takes the mean of the two ways.  Cross-Mamba alone has an order."""
