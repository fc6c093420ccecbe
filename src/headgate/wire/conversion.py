"""
What arrives when a value is sent, and where in a value something cannot be sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, time
from enum import Enum
from itertools import chain
from typing import Any, Final, NoReturn

import msgspec

from headgate.dataset import Dataset
from headgate.errors import PayloadError
from headgate.scalars import BASES, NO_STEP, foreign_scalar, with_plain_zone
from headgate.wire.arrays import array_base, checked_array, is_array
from headgate.wire.dataframes import TableError, dataset_of
from headgate.wire.extensions import CONTAINERS, FIXED, LEAVES

__all__ = ["Conversion", "base", "short_key"]

_Trail = tuple[Any, str, Any] | None
"""The steps to a value, the last one first: (steps before, form, key or index)."""


class Conversion:
    """
    One walk through a value, which builds what arrives.

    It is the one place that knows where in the value it is.
    """

    def __init__(self, root: str, max_depth: int) -> None:
        self._root = root
        self._max_depth = max_depth
        self._depth = 0
        self._open: set[int] = set()
        """Identities of the objects that the walk is inside of."""

    def of(self, value: Any, trail: _Trail = None) -> Any:
        """
        Give what arrives for a value.

        Raises:
            PayloadError: It cannot be sent; the error names what and where.
        """
        kind = type(value)
        if kind is datetime or kind is time:
            return self._with_plain_zone(value, trail)
        if kind in LEAVES:
            return value
        if id(value) in self._open:
            self._refuse(trail, "contains itself. Send a copy without the circle.")
        self._open.add(id(value))
        try:
            if kind in CONTAINERS:
                return self._container(value, trail)
            if kind is Dataset or is_array(kind):
                return self._whole(value, trail)
            return self.of(self._base(value, trail), trail)
        finally:
            self._open.remove(id(value))

    def _container(self, value: Any, trail: _Trail) -> Any:
        self._check_depth(1, trail)
        self._depth += 1
        try:
            if type(value) is dict:
                return self._dict(value, trail)
            return type(value)(self._items(value, trail))
        finally:
            self._depth -= 1

    def _check_depth(self, levels: int, trail: _Trail) -> None:
        if self._depth + levels > self._max_depth:
            self._refuse(trail, f"is deeper than {self._max_depth} levels. Send it flatter.")

    def _whole(self, value: Any, trail: _Trail) -> Any:
        """Give a Dataset or an array, which are carried as they are."""
        self._check_depth(2, trail)
        if type(value) is Dataset:
            return value
        try:
            return checked_array(value)
        except ValueError as error:
            self._refuse(trail, f"is an array that cannot be sent: {error}.", cause=error)

    def _dict(self, value: dict[Any, Any], trail: _Trail) -> dict[Any, Any]:
        if FIXED.issuperset(map(type, chain(value, value.values()))):
            return dict(value)
        result = {}
        for key, item in list(value.items()):
            if type(key) is not str:
                key = self._hashable(key, (trail, ".keys()", None))
            result[key] = self.of(item, (trail, "[{}]", key))
        return result

    def _items(self, value: Collection[Any], trail: _Trail) -> Iterable[Any]:
        if FIXED.issuperset(map(type, value)):
            return value
        if type(value) is list or type(value) is tuple:
            return (self.of(item, (trail, "[{}]", at)) for at, item in enumerate(value))
        return [self._hashable(item, (trail, "{{…}}", None)) for item in value]

    def _hashable(self, value: Any, trail: _Trail) -> Any:
        result = self.of(value, trail)
        try:
            hash(result)
        except TypeError:
            self._refuse(
                trail,
                f"is of type {_name(value)} and arrives as {_name(result)}, which cannot be a key "
                "or a member of a set. Use a tuple or text.",
            )
        return result

    def _base(self, value: Any, trail: _Trail) -> Any:
        try:
            return base(value)
        except _NotCarriedError:
            self._refuse(
                trail,
                f"is of type {_name(value)}, which cannot be sent. Send numbers, text, bytes, "
                "dates, lists, tuples, sets, dictionaries or dataclasses of these, or a table.",
            )
        except TableError as error:
            self._refuse(trail, f"is a table that cannot be sent: {error}.", cause=error)
        except Exception as error:
            self._refuse(
                trail, f"is of type {_name(value)} and cannot be read: {error!r}.", cause=error
            )

    def _with_plain_zone(self, value: datetime | time, trail: _Trail) -> datetime | time:
        try:
            return with_plain_zone(value)
        except Exception as error:
            self._refuse(trail, f"has a time zone that fails: {error!r}.", cause=error)

    def _refuse(self, trail: _Trail, reason: str, cause: Exception | None = None) -> NoReturn:
        steps = []
        while trail is not None:
            trail, form, key = trail
            steps.append(form.format(short_key(key)))
        place = self._root + "".join(reversed(steps))
        raise PayloadError(f"{place} {reason}", place=place, started=False) from cause


class _NotCarriedError(TypeError):
    """There is no conversion for a value."""


def base(value: Any) -> Any:
    """
    Take a value that is not carried one step towards what is.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, _KINDS):
        for kind, build in _BASES.items():
            if isinstance(value, kind):
                return build(value)
    for step in (_fields, foreign_scalar, array_base, dataset_of):
        result = step(value)
        if result is not NO_STEP:
            return result
    raise _NotCarriedError


_BASES: Final[dict[type, Callable[[Any], Any]]] = {
    list: list,
    tuple: tuple,
    dict: dict,
    set: set,
    frozenset: frozenset,
    **BASES,
}
_KINDS: Final = tuple(_BASES)


def _fields(value: Any) -> Any:
    """Give the fields of a dataclass, a msgspec, attrs or pydantic object as a dictionary."""
    kind: Any = type(value)
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(kind):
        names: Iterable[str] = (field.name for field in dataclasses.fields(kind))
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif hasattr(kind, "__attrs_attrs__"):
        names = (field.name for field in kind.__attrs_attrs__)
    else:
        return NO_STEP
    fields = {name: getattr(value, name) for name in names}
    return {name: field for name, field in fields.items() if field is not msgspec.UNSET}


def _name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def short_key(key: Any) -> str:
    """Give a key as a place shows it: what Python would read as the key, at most 80 characters."""
    try:
        text = repr(key)
    except ValueError:  # an int of more digits than Python writes
        text = "…"
    return text if len(text) <= 80 else text[:79] + "…"
