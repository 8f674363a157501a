"""`crossllm doctor`: parsing and printing only; it names the self-checks of all packages, which run in a child."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossllm.cache.cli_flags import CachePath, json_option
from crossllm.cache.console.messages import say
from crossllm.cache.console.once import Command
from crossllm.cache.errors import CacheCorrupt, PartlyDone

if TYPE_CHECKING:
    from crossllm.checks import Check
    from crossllm.pipeline.doctor.probes import Probe

_BACKENDS = ("reference", "numba", "triton", "mamba_ssm")
"""Of the scan, to which a test holds them; `crossllm.model.scan.backends` imports torch."""
_SETUP = "make setup, or pip install --force-reinstall {}"


@click.command(
    "doctor",
    cls=Command,
    short_help="Look at the installation, the machine and a cache.",
    examples=("crossllm doctor", "crossllm doctor -c cache/mine", "crossllm doctor --json"),
)
@click.option("--cache", "-c", "cache_dir", type=CachePath(), default=None, help="A cache to look at as well.")
@json_option
def doctor(cache_dir: Path | None, as_json: bool) -> None:
    """Say what works, what is slow or missing, and the line that mends it.

    Looks at libraries and their versions, devices, threads, memory, disk, the backends of the scan and of attention
    (each beside its plain reference), weights at hand and, with --cache, a cache. Installs and changes nothing. Exit
    code 0: all that is needed works; 3: the cache is damaged; 6: something else that is needed does not work.
    """
    found: list[Check] = []
    for section, checks in groupby(_checks(cache_dir), key=lambda check: check.section):
        some = list(checks)
        found += some
        if not as_json:
            say(section, *_lines(some))
    if as_json:
        failed = [check for check in found if check.state == "broken" and check.needed]
        click.echo(json.dumps({"works": not failed, "checks": [check._asdict() for check in found]}, indent=1))
    _verdict(found, as_json, cache_dir)


def _checks(cache_dir: Path | None) -> Iterator[Check]:
    """All of them, what needs no library first: it tells why one cannot be loaded."""
    from crossllm.cache.console.environment import drop_empty
    from crossllm.pipeline.doctor.machine import check_machine
    from crossllm.pipeline.doctor.probes import run_probes

    if cache_dir is not None:
        with suppress(ImportError):  # a finding, below
            from crossllm.cache.maintenance.inspection import require_cache

            require_cache(cache_dir)
    drop_empty()
    yield from check_machine(cache_dir or Path())
    yield from run_probes(_probes(cache_dir))


def _probes(cache_dir: Path | None) -> list[Probe]:
    """What runs in the child, in the order of the report."""
    from crossllm.pipeline.doctor.libraries import OPTIONAL, wanted
    from crossllm.pipeline.doctor.probes import Probe

    needed = [one.name for one in wanted()]
    found = [
        Probe("libraries", name, f"crossllm.pipeline.doctor.libraries:check_library:{name}", _SETUP.format(name),
              needed=name not in OPTIONAL)
        for name in (*needed, *OPTIONAL)
    ]  # fmt: skip
    found += [
        Probe("devices", "devices", "crossllm.pipeline.doctor.computing:check_devices", _SETUP.format("torch")),
        Probe("threads", "threads", "crossllm.pipeline.doctor.computing:check_threads", needed=False),
    ]
    found += [
        Probe("scan", name, f"crossllm.model.scan.self_check:check_backend:{name}",
              f"train --scan reference runs without it; {_SETUP.format(name.replace('_', '-'))}",
              needed=name in ("reference", "numba"))
        for name in _BACKENDS
    ]  # fmt: skip
    found += [
        Probe("attention", name, f"crossllm.embed.engine.self_check:{function}", _SETUP.format("torch numba"), needed)
        for name, function, needed in (
            ("SDPA", "check_attention", True),
            ("fused passes", "check_fused", True),
            ("packed kernel", "check_varlen", False),
        )
    ]
    found.append(Probe("weights", "weights", "crossllm.embed.encoders.at_hand:check_weights", needed=False))
    if cache_dir is not None:
        found.append(Probe("cache", "cache", f"crossllm.pipeline.doctor.cache_health:check_cache:{cache_dir}"))
    return found


def _lines(checks: Iterable[Check]) -> Iterator[str]:
    """A line a check, and one for what mends it."""
    for check in checks:
        yield f"  {check.state:8}{check.name:18}{check.said}"
        if check.mend:
            yield f"          → {check.mend}"


def _verdict(found: list[Check], as_json: bool, cache_dir: Path | None) -> None:
    failed = [check for check in found if check.state == "broken" and check.needed]
    if any(check.section != "cache" for check in failed):
        names = ", ".join(dict.fromkeys(check.name for check in failed))
        raise PartlyDone(f"needed, and does not work: {names}; each has a line that mends it")
    if failed:
        raise CacheCorrupt(f"{cache_dir}: the cache is damaged; each finding has a line that mends it")
    if not as_json:
        better = sum(check.state in ("improve", "broken") for check in found)
        more = f"; {better} could be better, see →" if better else ""
        say(f"all that is needed works{more}")
