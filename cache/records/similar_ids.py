"""Why an id has no record: the same id written in another way, in a table of pairs or the name of an array."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Set
from functools import cached_property

from crossllm.cache.errors import printable

_VERSION = re.compile(r"\.[0-9]{1,3}$")
_FLOAT = re.compile(r"([0-9]+)\.0+")
_QUOTES = re.compile(r"""="(.+)"|"(.+)"|'(.+)'""")
_MARKS = re.compile(r"[^0-9A-Za-z]+")
"""What tools write as '_' in the name of a file, and people as they like."""
_SHOWN = 2
_NAMED = 5
"""Ids that are named where several may be meant."""


class SimilarIds:
    """The ids of records, looked up in every way in which an id without a record may have been meant."""

    def __init__(self, ids: Set[str], holder: str = "the input") -> None:
        """`holder` is what has the records, for messages."""
        self.ids, self._holder = ids, holder

    def unseen(self, id_: str) -> str | None:
        """What to do where the two differ by a character that nobody sees; None where they do not."""
        if (odd := _invisible(id_)) is not None and (seen := self._visible.get(_bare(id_))):
            return f"it holds an invisible character 0x{ord(odd):02x} that {_names(seen)} has not: remove it"
        hidden = [(seen, odd) for seen in self._visible.get(id_, ()) if (odd := _invisible(seen)) is not None]
        if hidden:
            return f"{self._holder}'s id holds an invisible character 0x{ord(hidden[0][1]):02x}: remove it there"
        return None

    def written_otherwise(self, id_: str) -> str | None:
        """What to do where the id stands there in another way of writing; None where nothing is like it."""
        if (fix := self._spelt(id_)) is not None:
            return fix
        for found, what in (
            (self._folded.get(id_.casefold()), "in another case"),
            (self._parts.get(id_), "with more between bars"),
            ([part for part in dict.fromkeys(id_.split("|")) if part in self.ids], "alone, without bars"),
            (self._versions.get(_VERSION.sub("", id_)), "of another version"),
            (self._numbers.get(id_.lstrip("0")) if id_.isdecimal() else None, "with other zeros before it"),
            (self._marks.get(_MARKS.sub("_", id_)), "with other marks between letters and digits"),
        ):
            if found and len(found) > 1:
                return f"{self._holder} has {_names(found)}: which is meant? write that one"
            if found:
                return f"{self._holder} has {_names(found)}, the same {what}? write both alike"
        return None

    def why_not(self, id_: str) -> str | None:
        """What to do about an id that is not here; None where nothing is like it."""
        return self.unseen(id_) or self.written_otherwise(id_)

    def examples(self) -> str:
        """The first ids in order."""
        return ", ".join(f"'{printable(id_, 30)}'" for id_ in sorted(self.ids)[:_SHOWN]) or "nothing, there are none"

    def _spelt(self, id_: str) -> str | None:
        """What to write, where the id stands there with something around it, or in other code points."""
        if id_.startswith(">") and (word := next(iter(id_[1:].split()), "")) in self.ids:
            return f"{self._has(word)}write it without the '>' and what follows the first word of a FASTA header"
        if " " in id_ and (word := id_.split()[0]) in self.ids:
            return f"{self._has(word)}an id is the first word of a FASTA header; write that alone"
        if (quoted := _QUOTES.fullmatch(id_)) and (bare := next(filter(None, quoted.groups()))) in self.ids:
            return f"{self._has(bare)}remove the quotes around it" + " and the '='" * id_.startswith("=")
        if (number := _FLOAT.fullmatch(id_)) and number[1] in self.ids:
            return f"{self._has(number[1])}a float, as pandas makes of a column with gaps? write ids as text"
        if same := self._composed.get(unicodedata.normalize("NFC", id_)):
            return f"{self._holder} has {_names(same)}, the same in other code points (NFC and NFD): write both alike"
        return None

    def _has(self, id_: str) -> str:
        return f"{self._holder} has '{printable(id_)}': "

    @cached_property
    def _order(self) -> list[str]:
        """The ids in the order they were given, or sorted where a set has none: never by their hashes."""
        return sorted(self.ids) if isinstance(self.ids, set | frozenset) else list(self.ids)

    def _by(self, forms: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
        """Each form of an id → all ids that have it, in order."""
        found: dict[str, list[str]] = {}
        for id_ in self._order:
            for form in dict.fromkeys(forms(id_)):
                found.setdefault(form, []).append(id_)
        return found

    @cached_property
    def _visible(self) -> dict[str, list[str]]:
        return self._by(lambda id_: [_bare(id_)])

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return self._by(lambda id_: [id_.casefold()])

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        return self._by(_bars)

    @cached_property
    def _versions(self) -> dict[str, list[str]]:
        return self._by(lambda id_: (_VERSION.sub("", name) for name in (id_, *_bars(id_))))

    @cached_property
    def _numbers(self) -> dict[str, list[str]]:
        return self._by(lambda id_: [id_.lstrip("0")] if id_.isdecimal() else [])

    @cached_property
    def _marks(self) -> dict[str, list[str]]:
        return self._by(lambda id_: [_MARKS.sub("_", id_)])

    @cached_property
    def _composed(self) -> dict[str, list[str]]:
        return self._by(lambda id_: [unicodedata.normalize("NFC", id_)])


def _names(ids: list[str]) -> str:
    """The first few of several ids, and how many more there are."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(f"'{printable(id_)}'" for id_ in ids[:_NAMED]) + more


def _bars(id_: str) -> Iterator[str]:
    if "|" in id_:
        yield from id_.split("|")


def _invisible(text: str) -> str | None:
    """The first character that nobody sees: of no width, or a blank that is not the usual one."""
    return next((c for c in text if unicodedata.category(c) in ("Cf", "Zs") and c != " "), None)


def _bare(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Zs") or c == " ")
