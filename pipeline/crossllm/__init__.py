"""One import name for the four folders: `crossllm.cache`, `crossllm.embed`, `crossllm.model`, `crossllm.pipeline`.

The folders lie at the top of the repository; pyproject.toml maps each to its name (docs/design/0009).
"""

import sys

if sys.argv[:1] == ["-m"]:  # Python is looking for the module of `python -m`, and this is its package
    from crossllm.asked import refuse_no_program

    refuse_no_program(sys.orig_argv)
