"""How the small caches beside this file were made, each once, with the version that first wrote its kind of segment.

`python tests/data/make_golden.py h5|zstd FOLDER`; what is released is never made again.
"""

import hashlib
import socket
import sys
from pathlib import Path

import numpy as np

from crossllm.cache import CacheWriter, Recipe, key_of
from crossllm.cache.files import fsio

kind, folder = sys.argv[1], Path(sys.argv[2])
fsio.new_name = lambda: hashlib.sha256(kind.encode()).hexdigest()[:32]
socket.gethostname = lambda: "golden"
store = {"store": "h5"} if kind == "h5" else {"compressor": kind}
with CacheWriter(folder, Recipe("rna", "profile", 1, 4, tokenizer="letters"), **store) as writer:
    for letters in ("A", "ACGU", "GGAUC" * 9):
        writer.add(key_of("rna", letters), np.outer(np.arange(len(letters)), np.arange(1, 5)))
