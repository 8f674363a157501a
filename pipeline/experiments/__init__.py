"""Several runs together: a run with other seeds, ablations over a grid of settings, runs compared pair by pair.

From outside: `train_seeds` of `seeds`, `ablate` of `ablation`, `compare` of `compare`.
"""
