#!/usr/bin/env bash
# A local cluster of Dask leaves thread limits in the environment of the process that opened it.
#
# Versions: distributed 2026.8.0, dask 2026.8.0, Python 3.11, Linux x86-64.
# What was done: a LocalCluster with one worker process was opened and closed again; the environment before and after was compared.
# Seen: OMP_NUM_THREADS, MKL_NUM_THREADS and OPENBLAS_NUM_THREADS are 1 afterwards in the opening process itself, with an allocator
#   setting beside them.  With distributed.nanny.pre-spawn-environ empty nothing is left.
# Why it matters: whatever that process starts later, for example training in a child process of a notebook, computes on one core
#   although the cluster is long closed.  Nothing says so; a run is just slower, and sums are rounded otherwise.
# Expected by a user: the settings reach the workers alone, or go with the cluster.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0
cat > "$work/seen.py" <<'PY'
import os

import dask
import distributed

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def after(settings):
    """What of the limits is set once a cluster is closed."""
    with dask.config.set(settings), distributed.LocalCluster(n_workers=1, dashboard_address=None):
        pass
    return {name: os.environ.pop(name) for name in NAMES if name in os.environ}


if __name__ == "__main__":
    print("distributed", distributed.__version__)
    plain = after({})
    empty = after({"distributed.nanny.pre-spawn-environ": {}})
    print("left by default:", plain)
    print("left with an empty setting:", empty)
    assert plain == dict.fromkeys(NAMES, "1"), "the behaviour has changed"
    assert not empty, "the behaviour has changed"
PY
cd "$work"
env -u OMP_NUM_THREADS -u MKL_NUM_THREADS -u OPENBLAS_NUM_THREADS "$work/venv/bin/python" "$work/seen.py"
