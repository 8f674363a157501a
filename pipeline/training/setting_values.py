"""One value of a setting: from the text of a command line, and held to the field's type, choices and range."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

from crossllm.cache.errors import printable


class Text(str):
    """A value from the command line, of no type yet."""


def _from_text(text: str, kind: type) -> Any:
    """The value that a text stands for in a field of this type, or the text itself."""
    word = text.strip("\"'")
    if kind is bool:
        return {"true": True, "false": False}.get(word.lower(), text)
    try:
        if kind is int or (kind is float and "_" not in text):  # float() alone reads '1_0' as ten
            return kind(text)
    except ValueError:
        return text
    return word


def checked(wanted: dataclasses.Field[Any], value: Any) -> tuple[str | None, Any]:
    """What is wrong with a value or None, and the value in the field's type."""
    kind = type(wanted.default)
    if (word := wanted.metadata.get("word")) and value == word:
        return None, word
    if isinstance(value, Text):
        value = _from_text(str(value), kind)
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if type(value) is not kind:
        names = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}
        expected = names[kind] + (f" or {word}" if word else "")
        return f"'{printable(str(value), 20)}' is no such value; {expected} is expected", value
    if (choices := wanted.metadata.get("one_of")) and value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"'{printable(str(value))}' is not one of {', '.join(choices)}{hint}", value
    if bounds := wanted.metadata.get("range"):
        low, high = bounds
        if not low <= value <= high:  # NaN is in no range
            return f"{value} is out of range; {low:g} to {high:g} is expected", value
    return None, value
