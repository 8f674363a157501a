"""Why an id of a pairs table has no record: the same id written in another way, or the other column's."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Set
from functools import cached_property

from crossllm.cache.errors import printable

_VERSION = re.compile(r"\.[0-9]{1,3}$")
_SHOWN = 2


class Side:
    """The ids of one partner's records, looked up in every way they may have been meant."""

    def __init__(self, column: str, ids: Set[str]) -> None:
        self.column, self.ids = column, ids

    def why_not(self, id_: str, other: Side | None) -> str:
        """What to do about an id that is not here; `other` is the other column's side."""
        if (odd := _invisible(id_)) is not None and (seen := self._visible.get(_bare(id_))) is not None:
            return f"it holds an invisible character 0x{ord(odd):02x} that '{printable(seen)}' has not: remove it"
        if (seen := self._visible.get(id_)) is not None and (odd := _invisible(seen)) is not None:
            return f"the input's id holds an invisible character 0x{ord(odd):02x}: remove it there"
        if other is not None and id_ in other.ids:
            return f"it is a record of the other side: are {self.column} and {other.column} swapped?"
        for found, what in (
            (self._folded.get(id_.casefold()), "in another case"),
            (self._parts.get(id_), "with more between bars"),
            (next((part for part in id_.split("|") if part in self.ids), None), "alone, without bars"),
            (self._versions.get(_VERSION.sub("", id_)), "of another version"),
        ):
            if found is not None:
                return f"the input has '{printable(found)}', the same {what}? write both alike"
        return f"ids there look like {self.examples()}; add it or remove the pair"

    def examples(self) -> str:
        """The first ids in order."""
        return ", ".join(f"'{printable(id_, 30)}'" for id_ in sorted(self.ids)[:_SHOWN]) or "nothing, there are none"

    @cached_property
    def _visible(self) -> dict[str, str]:
        return {_bare(id_): id_ for id_ in self.ids}

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {id_.casefold(): id_ for id_ in self.ids}

    @cached_property
    def _parts(self) -> dict[str, str]:
        return {part: id_ for id_ in self.ids if "|" in id_ for part in id_.split("|")}

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {_VERSION.sub("", name): id_ for id_ in self.ids for name in (id_, *_bars(id_))}


def _bars(id_: str) -> Iterator[str]:
    if "|" in id_:
        yield from id_.split("|")


def _invisible(text: str) -> str | None:
    """The first character that nobody sees: of no width, or a blank that is not the usual one."""
    return next((c for c in text if unicodedata.category(c) in ("Cf", "Zs") and c != " "), None)


def _bare(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Zs") or c == " ")
