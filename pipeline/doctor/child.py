"""The program of a child of `crossllm doctor`: runs probes in turn, and answers one line of JSON each.

python -m crossllm.pipeline.doctor.child MODULE:FUNCTION[:ARGUMENT]…
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from crossllm.cache.errors import one_line
from crossllm.checks import Check


def main() -> None:
    """Run what the command line names."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for call in sys.argv[1:]:
        error, found = "", []
        try:
            found = [check._asdict() for check in _run(call)]
        except (Exception, SystemExit) as raised:
            error = f"{type(raised).__name__}: {one_line(raised, 300)}"
        answers.write(json.dumps({"error": error, "checks": found}) + "\n")
        answers.flush()


def _run(call: str) -> list[Check]:
    module, function, *arguments = call.split(":", 2)
    checks: list[Check] = getattr(import_module(module), function)(*arguments)
    return checks


if __name__ == "__main__":
    main()
