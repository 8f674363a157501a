"""What `crossllm doctor` finds: a record for each thing that was looked at.  All four packages make such records."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "improve", "absent", "broken"]


class Check(NamedTuple):
    """One thing that was looked at."""

    section: str
    """What it belongs to, e.g. `scan`."""
    name: str
    state: State
    """`ok`; `improve`: it works, and could do so better; `absent`: optional, and not there; `broken`."""
    said: str
    """What was seen."""
    mend: str = ""
    """The command, or the words, that change it."""
    needed: bool = True
    """Whether the program is of no use while this is broken."""
