#!/usr/bin/env bash
# Gradients of extremes over segments are too large where rows share them.
#
# Versions: torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
# What was done: the smallest value of each column over three segments of a matrix of small whole numbers, by segment_reduce, by
#   scatter_reduce("amin", include_self=False) into zeros, by scatter_reduce from infinity, and by amin of the split parts.
# Seen: the same values; but by segment_reduce the gradients of a segment's rows add up to much more than the gradient that came
#   in, and with include_self=False the start, 0, takes a share where the smallest value is 0.  The other two add up.
# Why it matters: one-hot and scale-like rows, as biology has them, share extremes all the time.  A pooled maximum then trains
#   with a wrong gradient, and attributions of residues do not sum up, at any number of steps.
# Expected by a user: rows that share an extreme share its gradient, as with amin.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import math

import torch

print("torch", torch.__version__)
draw = torch.Generator().manual_seed(0)
x = torch.randint(0, 3, (60, 57), generator=draw).double().requires_grad_()
weight = torch.randn(3, 57, generator=draw, dtype=torch.double)
lengths = torch.tensor([20, 15, 25])
index = torch.repeat_interleave(lengths)[:, None].expand(x.shape)


def missed(y):
    """By how much the gradients of a segment's rows miss, in sum, the gradient of its reduction."""
    (slope,) = torch.autograd.grad((y * weight).sum(), x)
    sums = torch.stack([part.sum(0) for part in slope.split(lengths.tolist())])
    return float((sums - weight).abs().max())


split = missed(torch.stack([part.amin(0) for part in x.split(lengths.tolist())]))
segment = missed(torch.segment_reduce(x, "min", lengths=lengths, axis=0))
zeros = missed(x.new_zeros(3, 57).scatter_reduce(0, index, x, "amin", include_self=False))
infinity = missed(x.new_full((3, 57), math.inf).scatter_reduce(0, index, x, "amin"))
print(f"missed: split {split:.1e}, segment_reduce {segment:.2f}, include_self=False {zeros:.2f}, inf {infinity:.1e}")
assert split < 1e-12 and infinity < 1e-12, "the references add up"
assert segment > 1, "segment_reduce adds up now"
assert zeros > 0.1, "include_self=False adds up now"
PY
echo "as described"
