"""What the labels of a pairs table mean: 0 and 1, classes by name, affinities, or "not measured".

Labels are never guessed: -1 and 1, 1 and 2, or 0 and 1 with -1 for "not measured" may be classes or numbers, and only
the user knows.  A table that leaves it open is refused, with its values and the ways on.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from crossllm.cache.errors import InputError, printable

Task = Literal["classification", "regression"]
MAX_LABEL = 1e30
"""No affinity in any unit is larger."""
FEW = 10
"""Distinct values up to which whole numbers are rather classes than affinities."""
MOSTLY = 0.5
"""Share of 0 and 1 from which the rest looks like a slip or a mark, whatever numbers it is."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_POINTS = "tr , . < FILE > NEW"
_MARKS = frozenset(-(10.0**count - 1) for count in range(2, 7))
"""-99 to -999999: what stands for "not measured" beside affinities."""
_FAR = 10.0
"""Times the largest other affinity from which 999, 9999, … looks like a mark too."""
_NEGATIVE = re.compile(
    r"(no|not|non|neg|negative|false|f|n|inactive|absent|decoy|unbound|random)([ _-].*)?|non[a-z]+", re.IGNORECASE
)
"""Words that say 0: only they tell which of two words is the positive class."""


class LabelNames(NamedTuple):
    """What the user said of the labels; words are compared whatever their case, numbers as numbers."""

    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Not measured: such rows are left out, counted."""


def check_names(names: LabelNames, task: Task | None) -> None:
    """Raise `InputError` where the flags contradict each other."""
    if bool(names.positive) != bool(names.negative):
        given, other = ("--positive", "--negative") if names.positive else ("--negative", "--positive")
        raise InputError(f"{given}: is given without {other}; name the labels of both classes")
    if names.positive and task == "regression":
        raise InputError("--positive: names a class, --task regression has none; leave one of the two out")
    flags = zip(("--positive", "--negative", "--missing"), names, strict=True)
    said: dict[float | str, str] = {}
    for flag, value in ((flag, value) for flag, values in flags for value in values):
        if said.setdefault(_same(value), flag) != flag:
            raise InputError(f"{flag} '{printable(value)}': is {said[_same(value)]} as well; give it one meaning")


class Labels:
    """Reads the labels of one table and remembers what it saw."""

    def __init__(self, path: Path, task: Task | None, names: LabelNames) -> None:
        check_names(names, task)
        self._path, self._asked = path, task
        self._positive, self._negative, self._missing = ({_same(value) for value in values} for values in names)
        self._seen: Counter[str] = Counter()
        """Labels, numbers in one spelling, missing ones left out → rows."""
        self._lines: dict[str, int] = {}
        """Where each stands first."""

    def is_missing(self, text: str) -> bool:
        """Whether the label says "not measured"."""
        return bool(self._missing) and _same(text) in self._missing

    def read(self, text: str, line: int) -> tuple[float, str | None]:
        """A label's value, and what is wrong with it."""
        value = number(text)
        shown = printable(text, 20) if math.isnan(value) else f"{value:g}"
        self._seen[shown] += 1
        self._lines.setdefault(shown, line)
        if self._positive:
            if (same := _same(text)) in self._positive:
                return 1.0, None
            what = f"label '{shown}' is neither --positive nor --negative; name it by one of them or by --missing"
            return 0.0, None if same in self._negative else what
        if not abs(value) <= MAX_LABEL:
            return value, f"label '{printable(text, 20)}' is no finite number; {_cure(text)}"
        if self._asked == "classification" and value not in (0.0, 1.0):
            return value, self.odd(value)
        return value, None

    def odd(self, value: float) -> str:
        """What is wrong with a number among classes."""
        return f"label {value:g} is neither 0 nor 1; correct it, or leave such rows out by --missing {value:g}"

    def task(self, skips: bool) -> tuple[Task, bool]:
        """The task of the whole table, and whether its one odd label is a slip among 0 and 1.

        Args:
            skips: whether labels that fit nothing are left out, listed.

        Raises:
            InputError: it is not clear what the labels are.
        """
        if self._positive:
            if not any(_same(label) in self._positive for label in self._seen) and self._seen:
                raise InputError(f"{self._path}: no label is --positive, they are {self._counts()}; name one of these")
            return "classification", False
        self._refuse_words()
        numbers = {label: value for label in self._seen if math.isfinite(value := number(label))}
        odd = {label: value for label, value in numbers.items() if value not in (0.0, 1.0)}
        if self._asked == "regression" or not odd:
            return self._asked or "classification", False
        rows, odd_rows = sum(self._seen[label] for label in numbers), sum(self._seen[label] for label in odd)
        both = len(numbers) - len(odd) == 2
        whole = len(numbers) <= FEW and (both or all(value.is_integer() for value in numbers.values()))
        mostly = both and rows - odd_rows >= MOSTLY * rows
        if odd_rows == 1 and len(numbers) == 3 and (self._asked == "classification" or whole or mostly):
            return "classification", True
        if self._asked == "classification":
            if skips:
                return "classification", False
            raise InputError(self._ask(numbers))
        if whole or mostly:
            raise InputError(self._ask(numbers))
        if (mark := _mark(numbers)) is not None:
            count = self._seen[mark]
            times = f"{count} row{'s' * (count != 1)}, the first on line {self._lines[mark]}"
            raise InputError(
                f"{self._path}: label {mark} in {times}, beside affinities: is it 'not measured'? leave such rows "
                f"out by --missing {mark}, or keep them by --task regression"
            )
        return "regression", False

    def refuse_one_class(self, left: set[float]) -> None:
        """Raise where rows were left out until one class remains: no model can be trained on that."""
        if len(left) == 1 and len(self._seen) > 1:
            numbers = {label: number(label) for label in self._seen}
            raise InputError(
                f"{self._path}: only pairs of label {left.pop():g} are left, of labels {self._counts()}; "
                + (self._ways(numbers) if set(numbers.values()) - {0.0, 1.0} else "correct the rows that were left out")
            )

    def _refuse_words(self) -> None:
        """Words of two or more kinds, and decimal commas, are one fault of the table and no fault of each row."""
        words = [label for label in self._seen if math.isnan(number(label))]
        if not words or sum(self._seen[word] for word in words) < 2:
            return
        if all(_COMMA.fullmatch(word) for word in words):
            first = f"'{words[0]}' on line {self._lines[words[0]]}"
            thousands = all(re.fullmatch(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+", word) for word in words)
            raise InputError(
                f"{self._path}: labels with a decimal comma, {first}; write {words[0].replace(',', '.')}"
                + (f" (or {words[0].replace(',', '')}, if it parts the thousands)" if thousands else "")
                + f": a spreadsheet saves points where its language is English; or `{_POINTS}`, where no others stand"
            )
        mostly = 2 * sum(self._seen[word] for word in words) >= sum(self._seen.values())
        if mostly and len(words) >= 2 and len(self._seen) <= FEW:
            zero = [word for word in words if _NEGATIVE.fullmatch(word)]
            one = [word for word in words if word not in zero]
            known = len(words) == 2 and len(zero) == 1  # which word is 1 is never guessed
            named = f"e.g. --positive {_word(one[0])} --negative {_word(zero[0])}" if known else (
                "--positive WORD --negative WORD, each may be given several times"
            )  # fmt: skip
            raise InputError(
                f"{self._path}: labels are {self._counts()}, not numbers; name the classes, {named}, and leave "
                "others out by --missing"
            )

    def _ask(self, numbers: dict[str, float]) -> str:
        return f"{self._path}: labels are {self._counts()}, not 0 and 1 alone; {self._ways(numbers)}"

    def _ways(self, numbers: dict[str, float]) -> str:
        """How to go on, typed with this table's own values."""
        values = sorted(numbers, key=lambda label: numbers[label])
        odd = [label for label in values if numbers[label] not in (0.0, 1.0)]
        ways = []
        if len(values) == 2:
            ways.append(f"two classes: --positive {values[1]} --negative {values[0]}")
        elif len(values) > 2:
            ways.append("two classes: --positive VALUE --negative VALUE, each may be given several times")
        if odd:
            ways.append(f"not measured: --missing {odd[0]}")
        if self._asked is None:
            ways.append("affinities: --task regression")
        return "say what they are: " + "; ".join(ways)

    def _counts(self) -> str:
        order = sorted(self._seen, key=lambda label: (math.isnan(number(label)), number(label), label))
        shown = []
        for label in order[:FEW]:
            rows = self._seen[label]
            where = f" from line {self._lines[label]}" if rows < 10 else ""
            shown.append(f"{label or 'empty'} ({rows} row{'s' * (rows != 1)}{where})")
        return ", ".join(shown) + (f" and {len(order) - FEW} more" if len(order) > FEW else "")


def _mark(numbers: dict[str, float]) -> str | None:
    """A label that looks like "not measured" among affinities: -999, the one negative number -1, 9999 far above all."""
    for label, value in numbers.items():
        others = [other for other in numbers.values() if other != value]
        far_below = value in _MARKS and min(others) > value / 2
        only_negative = value == -1.0 and min(others) > 0
        far_above = -value in _MARKS and max(others) > 0 and value > _FAR * max(others)
        if far_below or only_negative or far_above:
            return label
    return None


def number(text: str) -> float:
    """The number a label is, NaN where it is none.  Not float() alone, which reads '1_0' as ten."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def _same(text: str) -> float | str:
    """What two spellings of one label have in common: 1, 1.0 and +1; true and True."""
    value = number(text.strip())
    return text.strip().casefold() if math.isnan(value) else value


def _cure(text: str) -> str:
    if _COMMA.fullmatch(text):
        return f"a decimal comma? write {text.replace(',', '.')}"
    if text.startswith(("\u2212", "\u2013", "\u2014")) and not math.isnan(number(text[1:])):
        return f"a minus sign as it is printed (0x{ord(text[0]):04x})? write -{text[1:]}"
    if not text or text.casefold() in ("na", "nan", "none", "null", "n/a", "-", "?"):
        return f"fill it in, or leave such rows out by --missing {_word(text)}"
    return "give 0 or 1, or an affinity, or name classes by --positive and --negative"


def _word(text: str) -> str:
    """A label as it is typed in a shell."""
    return f"'{text}'" if not text or not re.fullmatch(r"[\w.+-]+", text) else text
