"""
Where in a value something is wrong: what msgspec and pydantic say, as a place in it.

A place is what Python would write to get at the wrong value: ``payload['lines'][3]['count']``. Only
for members of a set and keys there is no such way: ``payload['tags']{…}``, ``payload.keys()``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from headgate.wire.conversion import short_key

__all__ = ["Refusal", "refusal_by_location", "refusal_by_path"]

Convert = Callable[[Any], object]
"""Converts a value, or raises what is wrong with it."""

_TOLD: Final = re.compile(
    r"(?P<text>.*) - at (?P<key>`key[^`]*` in )?`\$\[0\](?P<path>.*)`", re.DOTALL
)
"""What msgspec says of a value that is the only member of a list."""

_INDEX: Final = re.compile(r"\[(\d+)\]")
_ENTRY: Final = "[...]"
"""An entry of a dictionary in a path of msgspec: it does not tell which."""


_UNKNOWN: Final = object()
"""A key that has to be found."""


class Refusal(NamedTuple):
    """What is wrong with a value, and where."""

    text: str
    place: str
    value: Any
    """What stands at the place."""


def refusal_by_path(told: str, value: Any, *, root: str, convert: Convert) -> Refusal:
    """
    Read what msgspec says of a value.

    Args:
        told: Its text, for a list with the value as its only member.
        value: The value.
        root: What the value is called.
        convert: What raised the text. It is asked again, mostly for small parts of the value, to
            find the key of a dictionary's entry.
    """
    found = _TOLD.fullmatch(told)
    if found is None:
        return Refusal(told, root, value)
    search = _Search(found["text"], _Steps(root, value), convert)
    rest = found["path"]
    while rest:
        step, rest = _first_step(rest, search.steps.value)
        if not (search.find(rest) if step is _UNKNOWN else search.follow(step, rest)):
            break
    place = search.steps.place + (".keys()" if found["key"] else "")
    return Refusal(found["text"], place, search.steps.value)


def refusal_by_location(text: str, location: Iterable[Any], value: Any, *, root: str) -> Refusal:
    """
    Read a location of pydantic: keys and indexes, and names of what was tried or is missing.

    Args:
        text: What is wrong.
        location: Where.
        value: The value that was checked.
        root: What the value is called.
    """
    steps = _Steps(root, value)
    names = [str(step) for step in location if not (steps.enter(step) or steps.enter_by_text(step))]
    return Refusal(f"{text} ({'.'.join(names)})" if names else text, steps.place, steps.value)


class _Steps:
    """A way from a value to something in it."""

    def __init__(self, root: str, value: Any) -> None:
        self.place = root
        self.value = value

    def enter(self, key: Any) -> bool:
        """Take a step, if there is one for this key or index."""
        value = self.value
        if isinstance(value, dict):
            if key not in value:
                return False
        elif type(key) is not int or not isinstance(value, _ROWS) or key >= len(value):
            return False
        if isinstance(value, (set, frozenset)):
            self.place, self.value = self.place + "{…}", list(value)[key]
        else:
            self.place, self.value = f"{self.place}[{short_key(key)}]", value[key]
        return True

    def enter_by_text(self, text: Any) -> bool:
        """Take a step to an entry whose key is no text, but so written by pydantic."""
        keys = self.value if isinstance(self.value, dict) else ()
        found = [key for key in keys if not isinstance(key, str) and repr(key) == text]
        return len(found) == 1 and self.enter(found[0])


_ROWS: Final = (list, tuple, set, frozenset)


class _Search:
    """
    A way to what a conversion refuses, with a value that has less and less beside it.

    So the conversion, which has to be asked for the keys, has less and less to do.
    """

    def __init__(self, text: str, steps: _Steps, convert: Convert) -> None:
        self.steps = steps
        self._text = text
        self._convert = convert
        self._taken: list[tuple[Any, Any]] = []
        """Each container on the way, and the key or index in it."""

    def follow(self, key: Any, rest: str) -> bool:
        """Take a step, and leave out what stands beside it if the same is refused without that."""
        container = self.steps.value
        if not self.steps.enter(key):
            return False
        if isinstance(container, dict):
            alone, at = {key: self.steps.value}, key
        else:
            alone, at = type(container)((self.steps.value,)), 0
        if len(container) > 1 and self._is_refused(alone, rest):
            container, key = alone, at
        self._taken.append((container, key))
        return True

    def find(self, rest: str) -> bool:
        """Take a step into the first entry of a dictionary that is refused."""
        entries = self.steps.value
        keys = list(entries)
        while len(keys) > 1:
            half = len(keys) // 2
            first = {key: entries[key] for key in keys[:half]}
            keys = keys[:half] if self._is_refused(first, rest) else keys[half:]
        # Not so in a dictionary that must have more entries.
        return self._is_refused({keys[0]: entries[keys[0]]}, rest) and self.follow(keys[0], rest)

    def _is_refused(self, value: Any, rest: str) -> bool:
        """Whether the conversion refuses another value at this place for the same reason."""
        for container, key in reversed(self._taken):
            if isinstance(container, dict):
                value = {**container, key: value}
            else:
                value = type(container)((*container[:key], value, *container[key + 1 :]))
        try:
            self._convert(value)
        except msgspec.ValidationError as error:
            found = _TOLD.fullmatch(str(error))
            return (
                found is not None and found["text"] == self._text and found["path"].endswith(rest)
            )
        except BaseException:
            # Classes of a script may raise anything.
            return False
        return False


def _first_step(path: str, value: Any) -> tuple[Any, str]:
    """The first step of a path of msgspec, which may be `_UNKNOWN`, and the rest of the path."""
    if index := _INDEX.match(path):
        return int(index[1]), path[index.end() :]
    if path.startswith(_ENTRY) and isinstance(value, dict):
        return _UNKNOWN, path[len(_ENTRY) :]
    # Names of fields may have dots: the longest that is there.
    names = [
        name
        for name in (value if isinstance(value, dict) else ())
        if isinstance(name, str)
        and path.startswith(name, 1)
        and path[1 + len(name) : 2 + len(name)] in ("", ".", "[")
    ]
    name = max(names, key=len, default=path)
    return name, path[1 + len(name) :]
