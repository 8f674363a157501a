"""Charts as `<svg>` elements of the page: their colours and sizes are the style sheet's, so one chart serves light and
dark, screen and paper.  Everything that comes from files is escaped here.

A series has a class, `s0` (the model) to `s9`; `style.css` gives it its colour and its dashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from crossllm.cache.errors import plain_line, printable

WIDTH, HEIGHT = 440, 360
"""Of a chart in its own units: on a screen of 390 px one of them is some 0.8 px, and text of 14 can be read."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 50
_ROW, _HEAD = 40, 16
"""Of a chart of rows: height of one, and from its top to the middle of its label."""
_LETTER = 8.2
"""Width of a letter of a label, a wide one: how many have room beside the numbers at the right."""
SERIES = 10


class Axis(NamedTuple):
    """What one side of a chart shows."""

    label: str
    low: float
    high: float
    whole: bool = False
    """Whether only whole numbers have ticks."""

    def place(self, values: Sequence[float] | np.ndarray, start: float, end: float) -> np.ndarray:
        """Where values stand between two places; what is outside is put on the edge."""
        share = (np.asarray(values, float) - self.low) / (self.high - self.low)
        found: np.ndarray = start + np.clip(share, 0, 1) * (end - start)
        return found


class Row(NamedTuple):
    """One line of a chart of rows."""

    label: str
    value: float | None
    """None: nothing is drawn but the label and a dash."""
    interval: tuple[float, float] | None = None
    points: tuple[float, ...] = ()
    """What the value is the mean of."""
    series: int = 1
    text: str = ""
    """The numbers in words, at the right."""


class LegendEntry(NamedTuple):
    """One series in the list under a chart."""

    style: str
    """Classes of its key."""
    text: str


class Figure(NamedTuple):
    """A chart with what stands around it."""

    svg: Markup
    caption: str
    legend: tuple[LegendEntry, ...] = ()


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[tuple[float, str]]:
    """Places that are 1, 2 or 5 times a power of ten apart, at most so many and one more, with their labels."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, _number(n * step, decimals)) for n in range(first, last + 1)]


class Chart:
    """A frame with two axes, into which series are drawn.

    Args:
        name: of the chart, one of its kind on the page; its ids begin with it.
        title: what it is, in a few words: the text that a screen reader gives for it.
        description: what is to be seen in it.
        x, y: its axes.
    """

    def __init__(self, name: str, title: str, description: str, x: Axis, y: Axis) -> None:
        self._name, self._title, self._description = name, title, description
        self._x, self._y = x, y
        self._marks: list[Markup] = []

    def line(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, style: str) -> None:
        """Straight lines from point to point."""
        self._path(_points(self._across(x), self._up(y)), f"line {style}")

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, style: str) -> None:
        """The area between two lines."""
        there, back = (self._across(x), self._up(low)), (self._across(x[::-1]), self._up(high[::-1]))
        edge = [np.concatenate(sides) for sides in zip(there, back, strict=True)]
        self._path(_points(*edge) + "z", f"band {style}")

    def dots(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, style: str) -> None:
        """A dot at each point: a line of next to no length, whose round ends are what is seen."""
        places = zip(self._across(x).tolist(), self._up(y).tolist(), strict=True)
        self._path("".join(f"M{a:.1f} {b:.1f}h.1" for a, b in places), f"dots {style}")

    def discs(self, x: np.ndarray, y: np.ndarray, area: np.ndarray, style: str) -> None:
        """A disc at each point, `area` its share of the largest."""
        radii = 2.5 + 7.5 * np.sqrt(area)
        for a, b, r in zip(self._across(x).tolist(), self._up(y).tolist(), radii.tolist(), strict=True):
            half = f"a{r:.1f} {r:.1f} 0 1 0"
            self._path(f"M{a - r:.1f} {b:.1f}{half} {2 * r:.1f} 0{half} {-2 * r:.1f} 0z", f"disc {style}")

    def whiskers(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, style: str) -> None:
        """An upright line at each x."""
        ends = zip(self._across(x).tolist(), self._up(low).tolist(), self._up(high).tolist(), strict=True)
        self._path("".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in ends), f"whisker {style}")

    def svg(self) -> Markup:
        """The element."""
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts: list[Markup] = []
        for value, label in ticks(self._x.low, self._x.high, whole=self._x.whole):
            (at,) = self._across([value]).tolist()
            parts.append(_path(f"M{at:.1f} {_TOP}V{bottom}", "grid"))
            parts.append(_text(at, bottom + 18, label, "tick middle"))
        for value, label in ticks(self._y.low, self._y.high, whole=self._y.whole):
            (at,) = self._up([value]).tolist()
            parts.append(_path(f"M{_LEFT} {at:.1f}H{right}", "grid"))
            parts.append(_text(_LEFT - 7, at + 5, label, "tick end"))
        middle = (_TOP + bottom) / 2
        parts.append(_text((_LEFT + right) / 2, HEIGHT - 10, self._x.label, "name middle"))
        turned = Markup('<text x="0" y="0" class="name middle" transform="translate(13 {:.0f}) rotate(-90)">{}</text>')
        parts.append(turned.format(middle, self._y.label))
        parts += self._marks
        parts.append(_path(f"M{_LEFT} {_TOP}V{bottom}H{right}", "frame"))
        return _svg(self._name, self._title, self._description, HEIGHT, parts)

    def _path(self, drawn: str, style: str) -> None:
        if drawn:
            self._marks.append(_path(drawn, style))

    def _across(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        return self._x.place(values, _LEFT, WIDTH - _RIGHT)

    def _up(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        return self._y.place(values, HEIGHT - _BOTTOM, _TOP)


def rows_chart(
    name: str, title: str, description: str, axis: Axis, rows: Sequence[Row], *, bars: bool, zero: bool
) -> Markup:
    """A line for each row: its label above, then its value, its interval, and the points that it is the mean of.

    Args:
        name, title, description: as of `Chart`.
        axis: of the values.
        rows: the first is at the top.
        bars: whether a bar leads from 0 (or the low end) to the value.
        zero: whether 0 stands for no difference, and has a line.
    """
    start, end = 8, WIDTH - 8
    bottom = _ROW * len(rows) + 8
    parts: list[Markup] = []

    def at(values: Iterable[float]) -> list[float]:
        found: list[float] = axis.place(list(values), start, end).tolist()
        return found

    for value, label in ticks(axis.low, axis.high):
        (x,) = at([value])
        parts.append(_path(f"M{x:.1f} 4V{bottom}", "grid"))
        parts.append(_text(x, bottom + 18, label, f"tick {'start' if x < 20 else 'end' if x > end - 12 else 'middle'}"))
    if zero and axis.low < 0 < axis.high:
        beside = "".join(f"M{at([0])[0]:.1f} {n * _ROW + _HEAD + 6}v18" for n in range(len(rows)))  # not through labels
        parts.append(_path(beside, "zero"))
    for number, row in enumerate(rows):
        top = number * _ROW
        middle = top + _HEAD + 15
        parts.append(_text(start + 3, top + _HEAD + 2, printable(row.label, _room(row)), f"label s{row.series}"))
        parts.append(_text(end, top + _HEAD + 2, row.text or "–", "value end"))
        if row.value is None:
            continue
        base, value = at([max(axis.low, min(0.0, axis.high)), row.value])
        if bars:
            parts.append(_path(f"M{base:.1f} {middle - 5}H{value:.1f}V{middle + 5}H{base:.1f}z", f"bar s{row.series}"))
        if row.interval is not None:
            low, high = at(row.interval)
            parts.append(_path(f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8",
                               f"range s{row.series}"))  # fmt: skip
        if row.points:
            parts.append(_path("".join(f"M{x:.1f} {middle}h.1" for x in at(row.points)), "dots point"))
        if not bars:
            parts.append(_path(f"M{value:.1f} {middle}h.1", f"mark s{row.series}"))
    parts.append(_text((start + end) / 2, bottom + 38, axis.label, "name middle"))
    return _svg(name, title, description, bottom + 46, parts)


def _room(row: Row) -> int:
    """Letters that a row's label may have."""
    return int((WIDTH - 30) / _LETTER) - len(row.text)


def _svg(name: str, title: str, description: str, height: float, parts: Iterable[Markup]) -> Markup:
    head = Markup(
        '<svg class="chart" role="img" viewBox="0 0 {} {}" aria-labelledby="{}-title {}-text">'
        '<title id="{}-title">{}</title><desc id="{}-text">{}</desc>'
    ).format(WIDTH, f"{height:.0f}", name, name, name, plain_line(title), name, plain_line(description))
    return head + Markup("").join(parts) + Markup("</svg>")


def _path(drawn: str, style: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(style, drawn)


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(f"{x:.1f}", f"{y:.1f}", style, plain_line(text))


def _points(x: np.ndarray, y: np.ndarray) -> str:
    """`M1 2L3 4…`, without points that stand where the one before stands."""
    places = list(zip(np.round(x, 1).tolist(), np.round(y, 1).tolist(), strict=True))
    kept = [place for n, place in enumerate(places) if n == 0 or place != places[n - 1]]
    return "M" + "L".join(f"{a:g} {b:g}" for a, b in kept) if kept else ""


def _number(value: float, decimals: int) -> str:
    """With a minus sign that is as wide as a plus, and no minus before a zero."""
    return f"{value + 0.0:.{decimals}f}".replace("-", "−")
