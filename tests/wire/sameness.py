"""When two values are the same, and not only equal."""

from __future__ import annotations

import struct
from datetime import datetime, time, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy

from headgate.dataset import Dataset


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal with their types, signs, zones and order, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right) or (
            left != left and right != right
        )
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, (set, frozenset)):
        return same_members(list(left), list(right))
    if isinstance(left, (datetime, time)):
        naive = left.replace(tzinfo=None) == right.replace(tzinfo=None)
        return naive and left.fold == right.fold and same_zone(left.tzinfo, right.tzinfo)
    if isinstance(left, Dataset):
        return same(table(left), table(right))
    if isinstance(left, numpy.ndarray):
        # tobytes(): nan is equal to itself there.
        facts = [(each.dtype.str, each.shape, each.tobytes()) for each in (left, right)]
        return facts[0] == facts[1]
    return bool(left == right)


def table(dataset: Dataset) -> list[Any]:
    """All that a Dataset holds."""
    return [dataset.getColumnTypes(), *dataset.to_dict().items()]


def same_members(left: list[Any], right: list[Any]) -> bool:
    for member in left:
        found = next((at for at, other in enumerate(right) if same(member, other)), None)
        if found is None:
            return False
        del right[found]
    return not right


def same_zone(left: tzinfo | None, right: tzinfo | None) -> bool:
    if isinstance(left, ZoneInfo):
        return isinstance(right, ZoneInfo) and left.key == right.key
    return type(left) is type(right) and left == right
