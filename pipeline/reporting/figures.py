"""Figures without a display: made for files alone, two of one result the same bytes."""

from __future__ import annotations

import io
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from crossllm.cache.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
PAPER = 0.7
"""An SVG's size to the PNG's: a panel of 5 inches is a journal's column then, 89 mm wide, and its text has 7 points."""
KINDS = ("png", "svg", "pdf")


def new_figure(columns: int, height: float = 4.5) -> tuple[Figure, Any]:
    """A figure of its own and its axes in a row, without pyplot's global state and whatever the display."""
    figure = empty_figure(5 * columns, height)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def empty_figure(width: float, height: float) -> Figure:
    """A figure without axes, in inches."""
    # A Jupyter kernel hands its own backend to its children, which do not know it; files need none.
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_bytes(figure: Figure, name: str, kind: str) -> bytes:
    """PNG for the screen, SVG or PDF for the paper: text stays text, and two runs of one result give the same bytes."""
    import matplotlib

    data = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42}),
    ):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks shows boxes
        if (layout := figure.get_layout_engine()) is not None:
            # Once a figure, not once a file; savefig would also draw all of it one time more for each.
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(data, format=kind, dpi=DPI, metadata=undated.get(kind))
    return _paper_size(data.getvalue().decode()).encode() if kind == "svg" else data.getvalue()


def _paper_size(svg: str) -> str:
    """The drawing with another width and height on paper; its own coordinates (`viewBox`) stay."""

    def smaller(found: re.Match[str]) -> str:
        return f'{found[1]}="{float(found[2]) * PAPER:g}pt"'

    head, mark, rest = svg.partition(" viewBox=")
    return re.sub(r'\b(width|height)="([0-9.]+)pt"', smaller, head) + mark + rest


def plain_label(name: str, limit: int = 30) -> str:
    """A name from a table as a label: dollars make no formula, and no '_' first, which would leave it out."""
    plain = printable(name, limit).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain
