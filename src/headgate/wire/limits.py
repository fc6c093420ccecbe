"""
What a payload may grow to, and how its depth is checked without a walk in Python.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Any, Final

import msgspec
import ormsgpack
from ormsgpack import packb

from headgate.dataset import Dataset
from headgate.errors import ConfigurationError
from headgate.wire.arrays import is_array
from headgate.wire.conversion import base
from headgate.wire.dataframes import is_table
from headgate.wire.extensions import CONTAINERS, LEAVES
from headgate.wire.packing import OPTIONS

__all__ = ["DEFAULT", "Limits", "is_shallow", "is_shallow_outside"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a value may grow to; a receiver refuses more, a sender does not send it."""

    max_bytes: int = 64 * 1024 * 1024
    """Bytes of the whole encoded value."""

    max_depth: int = 64
    """
    Lists, tuples, dictionaries and sets inside each other, the outermost counted.

    A Dataset and an array count as two.
    """

    max_members: int = 1_000_000
    """Members of all lists, tuples and sets and entries of all dictionaries, added up."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_members"):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}", cure="Write a number above 0"
                )
        # The limit of ormsgpack, 255 levels, leaves room for the lists of _shell().
        if not 1 <= self.max_depth <= 200:
            raise ConfigurationError(
                f"max_depth is {self.max_depth}", cure="Write a number from 1 to 200"
            )


DEFAULT: Final = Limits()


_HEADERS: Final = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
"""First bytes of MessagePack's arrays and maps."""


def is_shallow(value: Any, data: bytes | memoryview, max_depth: int) -> bool:
    """
    Whether a value is surely not too deep; False says only that it has to be walked through.

    Args:
        value: What was encoded, or what was decoded.
        data: Its bytes.
        max_depth: The levels that it may have.
    """
    if len(data) <= 4096:
        raw = data if type(data) is bytes else bytes(data)
        # Each level has a header; bytes that only look like one make this count too high.
        if len(raw) - len(raw.translate(None, _HEADERS)) <= max_depth:
            return True
    elif _has_few_members(value, max_depth):
        return True
    return _fits(_shell(max_depth), value)


def _has_few_members(value: Any, max_depth: int) -> bool:
    """Whether a value is not too deep and has few members, such as one long text."""
    level, budget = [value], 64
    for _ in range(max_depth + 1):
        containers = []
        for member in level:
            if type(member) in CONTAINERS:
                containers.append(member)
            elif type(member) not in LEAVES:
                return False
        budget -= sum(map(len, containers))
        if not containers or budget < 0:
            return budget >= 0
        level = [
            member
            for container in containers
            for member in (chain(*container.items()) if type(container) is dict else container)
        ]
    return False


_HEART: Final = object()


@cache
def _shell(max_depth: int) -> list[Any]:
    """
    Build lists around lists around `_HEART`.

    So many that a value of max_depth levels in the place of the heart is the deepest that
    ormsgpack packs: its own limit then counts ours, at its own speed.
    """
    deepest: list[Any] = []
    for _ in range(max_depth - 1):
        deepest = [deepest]
    shell = [_HEART]
    for _ in range(1024):
        if not _fits([shell], deepest):
            return shell
        shell = [shell]
    raise AssertionError("this release of ormsgpack has no limit of its own")


_ANY_KEYS: Final = (OPTIONS & ~ormsgpack.OPT_PASSTHROUGH_TUPLE) | ormsgpack.OPT_NON_STR_KEYS


def _fits(shell: list[Any], value: Any) -> bool:
    def default(member: Any) -> Any:
        if member is _HEART:
            return value
        if type(member) in LEAVES:
            return None
        if type(member) is Dataset or is_array(type(member)) or is_table(member):
            return [[]]
        return list(member) if type(member) in CONTAINERS else base(member)

    try:
        packb(shell, default, _ANY_KEYS)
    except Exception:
        return False
    return True


def is_shallow_outside(data: bytes, max_depth: int) -> bool:
    """
    Whether a value is surely not too deep, its extensions left out; nothing is built.
    """
    try:
        ormsgpack.Fragment(b"\x91" * (_most_levels() - max_depth) + data)
    except ValueError:
        return False
    return True


@cache
def _most_levels() -> int:
    """Find the levels that ormsgpack reads: lists around a value make its limit ours."""
    for levels in range(1024):
        try:
            ormsgpack.Fragment(b"\x91" * (levels + 1) + b"\xc0")
        except ValueError:
            return levels
    raise AssertionError("this release of ormsgpack has no limit of its own")
