"""A report in a real browser, by `make test-report`: nothing is asked for, nothing complains, every plot is drawn.

The screenshots stay in `build/report/` to be looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM, Chromium, Seen
from conftest import ROOT
from made_results import made_ablation, made_result, made_seeds

from crossllm.pipeline import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("CROSSLLM_BROWSER"), reason="`make test-report` opens reports in Chromium"),
]
SCREENS = [(width, dark) for width in (390, 1280) for dark in (False, True)]
SMALLEST_TEXT = 10.0
"""Pixels, on the narrowest screen."""
CONTRAST = 4.5
"""Of text on paper, at least (WCAG 2.2, 1.4.3)."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert PROGRAM is not None, "no Chromium or Chrome on the PATH; `make test-report` installs one where apt may"
    with Chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def page(rng: np.random.Generator, tmp_path: Path) -> Path:
    """Of every kind of run, with a long name."""
    name = "long" * 30
    runs = [
        made_result(tmp_path / "classes", rng, dataset=name, protocol="paper", optimistic=True),
        made_result(tmp_path / "affinities", rng, task="regression"),
        made_seeds(tmp_path / "seeds", rng, 2),
        made_ablation(tmp_path / "ablation", rng, ["cross_mamba", "concat", "a-very-long-value-" * 5]),
    ]
    return write_report(runs, tmp_path / "report.html").path


def test_every_plot_is_drawn_on_every_screen(browser: Chromium, page: Path) -> None:
    shots = ROOT / "build" / "report"
    shots.mkdir(parents=True, exist_ok=True)
    for width, dark in SCREENS:
        seen = browser.open(page, width=width, dark=dark)
        (shots / f"report-{width}-{'dark' if dark else 'light'}.png").write_bytes(seen.screenshot)
        assert seen.width == width, "the page must not be moved sideways"
        check_plots(seen, width)
        paper, ink = map(luminance, seen.colours)
        assert (paper < ink) == dark
        assert contrast(paper, ink) > CONTRAST
    (shots / "report.pdf").write_bytes(browser.pdf())
    print(f"look at {shots}")
    assert browser.requests == []
    assert browser.complaints == []


def check_plots(seen: Seen, width: int) -> None:
    assert len(seen.plots) == 5 + 4 + 5 + 2 + 5
    paper = luminance(seen.colours[0])
    for plot in seen.plots:
        assert min(plot["box"]) > 50, plot["name"]
        for mark in plot["marks"]:
            where = f"{plot['name']}: {mark}"
            assert max(mark["width"], mark["height"]) > 0, where
            assert mark["left"] >= -1, where
            assert mark["right"] <= width + 1, where
            assert (mark["stroke"], mark["fill"]) != ("none", "none"), where
            if mark["tag"] == "text":
                assert mark["size"] * mark["shown"] >= SMALLEST_TEXT, where
                assert contrast(luminance(mark["fill"]), paper) > CONTRAST, where


def test_what_a_page_asks_for_would_be_noticed(browser: Chromium, tmp_path: Path) -> None:
    made = tmp_path / "bad.html"
    made.write_text("<!doctype html><img src='other.png'><script>console.error('no')</script>")
    browser.open(made, width=390, dark=False)
    assert any("other.png" in address for address in browser.requests)
    assert any("no" in text for text in browser.complaints)
    browser.requests.clear()
    browser.complaints.clear()


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(…)` (WCAG 2.2)."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    """From 1 to 21."""
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)
