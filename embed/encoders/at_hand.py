"""Which encoders' weights are where `embed run` looks for them: for `crossllm doctor`."""

from __future__ import annotations

from crossllm.cache.errors import InputError
from crossllm.checks import Check
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.weights.published import local_weights, unchecked_weights, weights_folder

_SECTION = "weights"


def check_weights() -> list[Check]:
    """The folder, the encoders whose weights are there and checked, and files there that nobody has checked."""
    try:
        folder = str(weights_folder())
    except InputError as error:
        what, _, mend = error.lines[0].partition("; ")
        return [Check(_SECTION, "folder", "improve", what, mend, needed=False)]
    names = [info.name for info in ENCODERS.values() if info.source]
    ready = [name for name in dict.fromkeys(names) if local_weights(name)]
    found = [Check(_SECTION, name, "ok", str(local_weights(name)), needed=False) for name in ready]
    if not ready:
        mend = "embed models lists the encoders, embed pull NAME fetches one; profile needs no weights"
        found.append(Check(_SECTION, "language models", "absent", f"none in {folder}", mend, needed=False))
    for name in dict.fromkeys(names):
        if (path := unchecked_weights(name)) is not None:
            found.append(Check(_SECTION, name, "improve", f"not checked: {path}", f"embed pull {name}", needed=False))
    return found
