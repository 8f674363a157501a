"""`kmer_trees`: extremely randomised trees on both partners' k-mers, the bar that a system has to clear.

Not from a paper: the baseline `trees` (`crossllm.pipeline.baselines.trees`, Geurts et al., Mach Learn 2006;63:3) with
more trees, as a system of its own, so that it has calibration, intervals, plots and comparisons like every other.

RNA: k 1–4; protein: k 1–3 over seven classes and k 1–2 over twenty residues; molecule: ECFP4.  Nothing is tuned.
"""

from __future__ import annotations

from crossllm.pipeline.baselines.trees import extra_trees
from crossllm.pipeline.systems.fitted import refitting

TREES = 500

kmer_trees = refitting(extra_trees(TREES, "kmer_trees"))
"""The system."""
