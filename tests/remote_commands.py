"""Commands on caches in object stores, as tests run them."""

from __future__ import annotations

import pytest
from docs_pages import click_command

from crossllm.cache.console import runner


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[str, str]:
    """A command in this process: standard output and error."""
    name, *arguments = map(str, words)
    capsys.readouterr()
    found = runner._run(click_command(name), arguments)
    out, err = capsys.readouterr()
    assert found == code, f"{' '.join(map(str, words))}\n{out}\n{err}"
    return out, err
