"""What the documents say of the code: commands, flags, settings and their defaults, files, floors, links."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT
from docs_pages import GUIDE, PAGES, blocks_of, every_command
from test_cli_layers import FLOORS

from crossllm.pipeline.training.config import TrainConfig

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TEXTS = [*PAGES, CONTRIBUTING, ROOT / "docs" / "outputs.md", ROOT / "docs" / "known_issues.md"]
each_text = pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_readme_lists_every_command() -> None:
    listed = re.findall(r"^\| `([a-z ]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(every_command())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_in_the_text_exist(page: Path) -> None:
    flags = {flag for command in every_command().values() for p in command.params for flag in p.opts} | {"--help"}
    named = {flag for code in re.findall(r"`([^`]+)`", prose(page)) for flag in re.findall(r"(?<!\S)--[a-z-]+", code)}
    assert named <= flags, sorted(named - flags)


def test_the_guide_lists_every_setting_and_its_default() -> None:
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| `([^`]+)` \|", (GUIDE[0].parent / "training.md").read_text(), re.M))
    defaults = {key: value for table in TrainConfig().to_tables().values() for key, value in table.items()}
    assert listed == {key: str(value).lower() or '""' for key, value in defaults.items()}


@each_text
def test_files_of_the_code_exist(page: Path) -> None:
    places = [ROOT, *(ROOT / package for package in FLOORS), ROOT / "embed" / "encoders", ROOT / "tests"]
    for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", prose(page)):
        assert any((place / name).exists() for place in places) or "NAME" in name, name


def test_the_picture_of_the_floors_is_the_one_that_is_tested() -> None:
    picture = CONTRIBUTING.read_text().split("```text\n")[2].split("```")[0].splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", picture[0])]
    assert picture[0].split() == list(FLOORS)
    for package, start, end in zip(FLOORS, starts, [*starts[1:], None], strict=True):
        drawn = re.findall(r"[a-z_]+", " ".join(line[start:end] for line in picture[2:]))
        tested = [name for entry in FLOORS[package] for name in entry.split()]
        assert drawn == tested, package


@each_text
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_the_names_of_the_python_page_are_there_and_shown() -> None:
    """A dozen names; each can be imported, has a docstring and stands in a block that is run."""
    page = ROOT / "docs" / "guide" / "python.md"
    listed = re.findall(r"^\| `((?:cache|embed|model|pipeline)\.[\w.]+)` \|", page.read_text(), re.MULTILINE)
    code = "\n".join(block.text for block in blocks_of(page) if block.info == "python")
    assert len(listed) >= 12
    for name in listed:
        package, first, *rest = name.split(".")
        found = getattr(import_module(f"crossllm.{package}"), first)
        for part in rest:
            found = getattr(found, part)
        assert found.__doc__, name
        assert re.search(rf"\b{(rest or [first])[-1]}\b", code), f"{name} is in no example"
