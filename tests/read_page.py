"""A page of HTML as a test reads it, by the standard library's parser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

VOID = {"meta", "link", "wbr", "br", "img", "hr", "input"}
LOADING = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "formaction"}
"""Attributes that make a browser fetch something."""


class Element:
    """An element with its attributes, its text and that of everything in it."""

    def __init__(self, tag: str, attributes: dict[str, str], above: Element | None) -> None:
        self.tag, self.attributes, self.above = tag, attributes, above
        self.below: list[Element] = []
        self.text = ""

    def all(self, tag: str, style: str = "") -> list[Element]:
        """Everything below of this tag that has all of these classes, in order."""
        found = []
        for one in self.below:
            if one.tag == tag and set(style.split()) <= set(one.attributes.get("class", "").split()):
                found.append(one)
            found += one.all(tag, style)
        return found

    def everything(self) -> list[Element]:
        return [inner for one in self.below for inner in (one, *one.everything())]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {tag} {attrs}"
        made = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.below.append(made)
        if tag not in VOID:
            self.at = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.below.append(Element(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.above is not None
        self.at = self.at.above

    def handle_data(self, data: str) -> None:
        at: Element | None = self.at
        while at is not None:
            at.text += data
            at = at.above


def read_page(path: Path) -> Element:
    """The root of a page; every element closed in its place."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.at is reader.root, f"<{reader.at.tag}> is not closed"
    return reader.root


def words(element: Element) -> str:
    """Its text, blanks of any kind as one."""
    return " ".join(element.text.split())


def assert_whole(page: Element) -> None:
    """What holds for every page: it needs nothing from elsewhere, and every plot has marks and a text for them."""
    for element in page.everything():
        assert element.tag not in ("script", "img", "iframe", "object", "embed", "image", "use", "foreignobject")
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in LOADING:
                assert value.startswith(("#", "data:,")), (element.tag, name, value)
            assert "url(" not in value
    for style in page.all("style"):
        assert "url(" not in style.text
        assert "@import" not in style.text
    ids = [element.attributes["id"] for element in page.everything() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}
    assert len(page.all("h1")) == 1
    plots = page.all("svg")
    assert plots
    for plot in plots:
        assert plot.attributes["role"] == "img"
        named = plot.attributes["aria-labelledby"].split()
        labels = [one for name in named for one in plot.below if one.attributes.get("id") == name]
        assert [label.tag for label in labels] == ["title", "desc"]
        assert all(len(label.text) > 5 for label in labels)
        drawn = [path.attributes["class"].split() for path in plot.all("path")]
        assert any(not {"grid", "frame", "zero", "chance"} & set(styles) for styles in drawn), labels[0].text
        for path in plot.all("path"):
            assert re.fullmatch(r"[MLHVhvaz0-9. −-]+", path.attributes["d"]), path.attributes["d"]


def points_of(path: Element) -> np.ndarray:
    """(N, 2) places of a path of straight lines, in the chart's own units."""
    return np.array([place.split() for place in path.attributes["d"].lstrip("M").rstrip("z").split("L")], float)
