"""What `--dask` names: workers of this machine, a scheduler's address, or the file in which a scheduler wrote it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, one_line, printable

MOST_WORKERS = 1024
"""Of one machine."""
_EXPECTED = "local, local:N, tcp://HOST:PORT, tls://HOST:PORT or a scheduler's file is expected"
_CONTACT = r"(tcp|tls)://[^/\s]+:[0-9]{1,5}"
_MAX_FILE = 1 << 20


class ClusterName(NamedTuple):
    """A cluster, as it was named."""

    text: str
    """As it was written."""
    contact: str | None
    """Address of its scheduler; None: one of this machine is started, and ended with the command."""
    workers: int | None = None
    """Of this machine; None: as many as suit the work."""


def parse_cluster(text: str) -> ClusterName:
    """The cluster that `--dask` names.

    Raises:
        InputError: it names none, or a file that no scheduler wrote.
    """
    if match := re.fullmatch(r"local(?::([0-9]{1,5}))?", text):
        workers = None if match[1] is None else int(match[1])
        if workers is not None and not 1 <= workers <= MOST_WORKERS:
            raise InputError(f"--dask {text}: 1 to {MOST_WORKERS} workers are expected")
        return ClusterName(text, None, workers)
    if re.fullmatch(_CONTACT, text):
        return ClusterName(text, text)
    if "://" in text or text.startswith("local:") or not text:
        raise InputError(f"--dask '{printable(text)}': {_EXPECTED}")
    return ClusterName(text, _written_address(Path(text)))


def _written_address(path: Path) -> str:
    """The address in a scheduler's file, as `dask scheduler --scheduler-file` writes it."""
    try:
        with open(path, "rb") as file:
            address = json.loads(file.read(_MAX_FILE))["address"]
    except FileNotFoundError:
        raise InputError(f"--dask {printable(str(path))}: there is no such file; {_EXPECTED}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--dask {printable(str(path))}: not a scheduler's file ({one_line(error)})") from None
    if not isinstance(address, str) or not re.fullmatch(_CONTACT, address):  # Dask hangs on a protocol it cannot speak
        raise InputError(
            f"--dask {printable(str(path))}: its address is {printable(str(address))}, tcp://HOST:PORT or "
            "tls://HOST:PORT is expected; start the scheduler by one of these"
        )
    return address
