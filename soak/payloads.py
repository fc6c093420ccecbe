"""Random payloads of every type that is carried, and the strict comparison of what comes back."""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import accumulate
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from headgate import Dataset

__all__ = ["Payloads", "differs"]

MIB = 1024 * 1024


class Payloads:
    """
    A stock of payloads: most are tiny, some have hundreds of members, a few have megabytes.

    They are made once, so that what a process does during the soak is sending, not making.

    Args:
        seed: Equal seeds make equal stocks.
    """

    def __init__(self, seed: str) -> None:
        dice = random.Random(seed)
        makers = [
            *((60.0, _tree(dice, 3)) for _ in range(60)),
            *((25.0, _tree(dice, 200)) for _ in range(25)),
            *((10.0, _blob(dice, 64 * 1024)) for _ in range(12)),
            *((3.0, _blob(dice, MIB // 2)) for _ in range(6)),
            (0.4, dice.randbytes(dice.randint(MIB, 4 * MIB))),
            (0.4, "Kühlwasser " * (MIB // 8)),
            (0.4, [dice.random() for _ in range(20_000)]),
        ]
        self._values = [value for _, value in makers]
        self._weights = list(accumulate(weight for weight, _ in makers))

    def pick(self, dice: random.Random) -> Any:
        """Return one of the stock."""
        return self._values[bisect(self._weights, dice.random() * self._weights[-1])]


def differs(sent: Any, came: Any, place: str = "body") -> str:
    """Return where two values differ, in value or in type; an empty string if nowhere."""
    if type(sent) is not type(came):
        return f"{place}: {type(sent).__name__} came back as {type(came).__name__}"
    if isinstance(sent, list | tuple):
        if len(sent) != len(came):
            return f"{place}: {len(sent)} members came back as {len(came)}"
        pairs = enumerate(zip(sent, came, strict=True))
        return next((d for n, (a, b) in pairs if (d := differs(a, b, f"{place}[{n}]"))), "")
    if isinstance(sent, dict):
        return differs(list(sent.items()), list(came.items()), f"{place}.items()")
    if isinstance(sent, Dataset):
        return differs(_table(sent), _table(came), place)
    if isinstance(sent, set | frozenset):
        alike = Counter(map(_typed, sent)) == Counter(map(_typed, came))
    elif isinstance(sent, str | bytes | int):
        alike = sent == came
    else:
        # The text has what equality leaves out: nan, the sign of 0.0, zones, trailing zeros.
        alike = repr(sent) == repr(came)
    return "" if alike else f"{place}: {sent!r:.60} came back as {came!r:.60}"


def _table(dataset: Dataset) -> list[Any]:
    types = [kind.__name__ for kind in dataset.getColumnTypes()]
    return [types, dataset.to_dict()]


def _typed(value: object) -> tuple[type, str]:
    return type(value), repr(value)


def _blob(dice: random.Random, most: int) -> object:
    size = int(most ** dice.uniform(0.6, 1.0))
    return dice.randbytes(size) if dice.random() < 0.5 else "µ" * (size // 2)


def _tree(dice: random.Random, members: int) -> object:
    """Return a value of at most so many leaves, nested at random."""
    if members <= 1:
        return _leaf(dice)
    parts, left = [], dice.randint(1, members)
    while left > 0:
        share = dice.randint(1, left)
        parts.append(_tree(dice, share if share < members else share // 2))
        left -= share
    match dice.randrange(5):
        case 0:
            return tuple(parts)
        case 1 | 2:
            return {f"key {n}": part for n, part in enumerate(parts)}
        case 3:
            return {_key(dice): part for part in parts}
        case _:
            return parts


def _key(dice: random.Random) -> Any:
    return dice.choice([_text, _number, _date, _datetime, _decimal, _uuid, _pair])(dice)


def _leaf(dice: random.Random) -> Any:
    return dice.choice(_LEAVES)(dice)


def _text(dice: random.Random) -> str:
    return "".join(dice.choices("abcÄß€漢字🙂\0 \n", k=dice.randint(0, 20)))


def _number(dice: random.Random) -> int:
    return dice.choice([0, -1, 2**31, 2**63, 2**64, -(2**63), dice.getrandbits(200)]) + (
        dice.randint(-3, 3)
    )


def _float(dice: random.Random) -> float:
    return dice.choice([0.0, -0.0, float("nan"), float("inf"), 5e-324, dice.uniform(-1e9, 1e9)])


def _date(dice: random.Random) -> date:
    return date(dice.randint(1, 9999), dice.randint(1, 12), dice.randint(1, 28))


def _datetime(dice: random.Random) -> datetime:
    zone = dice.choice([None, UTC, ZoneInfo("Europe/Berlin"), timezone(timedelta(minutes=330))])
    moment = datetime(2024, 10, 27, 2, dice.randint(0, 59), 1, dice.randint(0, 999_999))
    return moment.replace(tzinfo=zone, fold=dice.randint(0, 1))


def _time(dice: random.Random) -> time:
    return time(dice.randint(0, 23), dice.randint(0, 59), dice.randint(0, 59), 17)


def _decimal(dice: random.Random) -> Decimal:
    return Decimal(dice.choice(["-1.50", "1E+3", "0.00", str(dice.random())]))


def _uuid(dice: random.Random) -> UUID:
    return UUID(int=dice.getrandbits(128))


def _dataset(dice: random.Random) -> Dataset:
    rows = [(_text(dice), _number(dice), None) for _ in range(dice.randint(0, 20))]
    return Dataset(["name", "größe", "nothing"], rows, [str, int, Decimal])


def _pair(dice: random.Random) -> tuple[Any, ...]:
    return (_number(dice), _text(dice))


_LEAVES: list[Callable[[random.Random], Any]] = [
    *(_text, _number, _float, _date, _datetime, _time, _decimal, _uuid, _pair),
    _dataset,
    lambda dice: None,
    lambda dice: dice.random() < 0.5,
    lambda dice: dice.randbytes(dice.randint(0, 40)),
    lambda dice: timedelta(microseconds=dice.randint(-(10**12), 10**12)),
    lambda dice: {_key(dice) for _ in range(dice.randint(0, 5))},
    lambda dice: frozenset(_text(dice) for _ in range(dice.randint(0, 5))),
]
