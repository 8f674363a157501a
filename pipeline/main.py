"""The programs `embed`, `train` and `crossllm`: with `pipeline.cli` the composition root, which may import every CLI.

What they import takes a while to load, and to take down.  Outside `console.runner.run`, which hears signals, one ends
the process at once and without a word: nothing was begun, or all is done.  So nothing heavy is imported at the top.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module


def embed() -> None:
    """The `embed` program."""
    _program("crossllm.embed.cli")


def train() -> None:
    """The `train` program."""
    _program("crossllm.pipeline.cli_train")


def main() -> None:
    """The `crossllm` program."""
    _program("crossllm.pipeline.cli")


def _program(module: str) -> None:
    _leave_at_a_signal()
    try:
        import_module(module).main()
    finally:
        _leave_at_a_signal()


def _leave_at_a_signal() -> None:
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)):  # the last is not known to Windows
        known = getattr(signal, name, None)
        if known is not None and signal.getsignal(known) is not signal.SIG_IGN:  # a shell's job in the background
            signal.signal(known, lambda *_, code=code: os._exit(code))
