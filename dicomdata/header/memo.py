"""What was decoded before: the files of a series share most of it, so it is made once.

What is made of a header is a function of the bytes that were looked at while it was made. Which
those are is noted, and where all of them are the same in another file, so is what is made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from dicomdata.header.parsing import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.header.elements import Elements
    from dicomdata.header.nested import Item

_MOST_MADE = 1024
"""Results kept that were made of the same tags: those of the series that are read at a time."""

_MOST_TAGS = 8
"""Sets of tags that results are made of: one for most CT, another for PET."""

_LARGEST_KEY = 8 * 1024
"""Bytes that a result is made of, beyond which it is not kept."""

Key = tuple[object, ...]

T = TypeVar("T")


class _Noted(dict[int, bytes]):
    """Values that note which tags are asked for, whether they are there or not."""

    def __init__(self, values: dict[int, bytes]) -> None:
        super().__init__(values)
        self.asked: set[int] = set()

    def __getitem__(self, tag: int) -> bytes:
        self.asked.add(tag)
        return super().__getitem__(tag)

    def __contains__(self, tag: object) -> bool:
        if isinstance(tag, int):
            self.asked.add(tag)
        return super().__contains__(tag)

    def get(self, tag: int, default: bytes = b"") -> bytes:  # type: ignore[override]
        self.asked.add(tag)
        return super().get(tag, default)

    def _unnoted(self, *_: object) -> NoReturn:
        raise TypeError("what is remembered is made of elements asked for by their tags")

    __iter__ = keys = values = items = copy = _unnoted


class Memo(Generic[T]):
    """What was made of the last headers, by the bytes it was made of.

    Shared by threads without a lock: what two of them make at once is equal.
    """

    def __init__(self) -> None:
        self._known: tuple[tuple[tuple[int, ...], dict[Key, T]], ...] = ()

    def __len__(self) -> int:
        return sum(len(results) for _, results in self._known)

    def get(self, elements: Elements, *, beside: Key, make: Callable[[Elements], T]) -> T:
        """Give what is made of the elements of a file with one frame.

        Args:
            elements: of the file.
            beside: what else it is made of.
            make: makes it of the values it asks for, of what is in `beside`, and of nothing else;
                never None.
        """
        template, pixels = elements.template, elements.pixels
        common = (self, beside, pixels is not None and pixels.length == UNDEFINED_LENGTH)
        if template is not None and common in template.made:
            known: T = template.made[common]
            return known
        tags, result = self._looked_up(elements, beside, make)
        if template is not None and template.differing.isdisjoint(tags):
            template.made[common] = result
        return result

    def _looked_up(
        self, elements: Elements, beside: Key, make: Callable[[Elements], T]
    ) -> tuple[tuple[int, ...], T]:
        """Give what is made of the elements, and the tags of the values it is made of."""
        about = (beside, *_about(elements))
        raw = elements.values.get
        for tags, results in self._known:
            result = results.get((about, *map(raw, tags)))
            if result is not None:
                return tags, result
        noted = _Noted(elements.values)
        result = make(replace(elements, values=noted))
        tags = tuple(sorted(noted.asked))
        if sum(len(raw(tag, b"")) for tag in tags) <= _LARGEST_KEY:
            self._keep(tags, (about, *map(raw, tags)), result)
        return tags, result

    def _keep(self, tags: tuple[int, ...], key: Key, result: T) -> None:
        others = [(known, results) for known, results in self._known if known != tags]
        mine = next((results for known, results in self._known if known == tags), {})
        if len(mine) >= _MOST_MADE:
            mine = {}
        mine[key] = result
        self._known = ((tags, mine), *others[: _MOST_TAGS - 1])


def _about(elements: Elements) -> Key:
    """Give what a result may be made of that is no value of an element."""
    pixels = elements.pixels
    return (
        elements.big_endian,
        pixels and (pixels.tag, pixels.representation, pixels.length == UNDEFINED_LENGTH),
        tuple((tag, *map(_frozen, items)) for tag, items in elements.items.items()),
    )


def _frozen(item: Item) -> Key:
    return tuple(item.values.items()), frozenset(item.signed)
