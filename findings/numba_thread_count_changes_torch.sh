#!/usr/bin/env bash
# Reading Numba's number of threads changes torch's.
#
# Versions: numba 0.68.1, torch 2.13.0 (CPU), Python 3.11, Linux x86-64, a machine with two cores or more.
# What was done: a process with one thread (OMP_NUM_THREADS=1) imports both and asks numba.get_num_threads().
# Seen: torch.get_num_threads() is 1 before and NUMBA_NUM_THREADS after.  Numba starts its pool of threads at the first question,
#   sets the OpenMP runtime's count for its own use, and torch, which shares that runtime, reads its count from there.
# Why it matters: with another number of threads torch adds in another order.  A training run that looks at Numba's threads
#   before its first step has another loss in the last digits than one that does not, and a job takes cores that it was not given.
# Expected by a user: a question changes nothing, least of all in another library.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6 torch==2.13.0
cd "$folder"
OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2 "$folder/venv/bin/python" - <<'PYTHON'
import numba
import torch

before = torch.get_num_threads()
asked = numba.get_num_threads()
after = torch.get_num_threads()
print(f"numba {numba.__version__}, torch {torch.__version__}: torch's threads {before}, Numba's {asked}, torch's then {after}")
assert (before, asked, after) == (1, 2, 2), "it is otherwise now"
PYTHON
