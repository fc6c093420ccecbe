"""
Values and frames as the vectors describe them, in JSON.

A value is a pair of its type and its content: ``["int", "55"]``, ``["map", [[key, value], …]]``. A
frame is an object of its fields by name, with ``{"hex": "…"}`` for bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy

from headgate.dataset import Dataset
from headgate.scalars import SCALARS
from headgate.wire import frames

FOLDER = Path(__file__).parent

KINDS = {
    kind.__name__.removesuffix("Frame"): kind
    for kind in (*get_args(frames.Frame), *get_args(frames.Greeting))
}


def vectors(name: str) -> Any:
    """The content of a file of vectors."""
    return json.loads((FOLDER / "vectors" / f"{name}.json").read_text("utf-8"))


# Values.


def made(description: list[Any]) -> Any:
    """The value that a description means."""
    kind, *content = description
    return _MAKERS[kind](*content)


def form(value: Any) -> Any:
    """What two values have in common exactly if they are equal and of the same types, NaN too."""
    kind = type(value)
    if kind is list or kind is tuple:
        return kind.__name__, tuple(map(form, value))
    if kind is set or kind is frozenset:
        return kind.__name__, frozenset(map(form, value))
    if kind is Dataset:
        return "dataset", value._names, value._types, form(list(map(tuple, value)))
    if kind is numpy.ndarray:
        order = "C" if value.flags.c_contiguous else "F"
        return "ndarray", value.dtype.str, order, value.shape, value.tobytes(order)
    if kind is dict:
        return "dict", tuple((form(key), form(item)) for key, item in value.items())
    return kind.__name__, repr(value)


def _members(make: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    return lambda content: make(map(made, content))


def _moment(kind: type[Any]) -> Callable[[str], Any]:
    def make(text: str) -> Any:
        moment, zone, fold = re.fullmatch(r"([^[]+)(\[[^=]+\])?(\[_fold=1\])?", text).groups()
        value = kind.fromisoformat(moment)
        if zone:
            value = value.replace(tzinfo=ZoneInfo(zone[1:-1]))
        return value.replace(fold=1) if fold else value

    return make


def _dataset(content: dict[str, Any]) -> Dataset:
    types = [SCALARS[name] for name in content["types"]]
    return Dataset(content["columns"], [list(map(made, row)) for row in content["rows"]], types)


def _ndarray(content: dict[str, Any]) -> Any:
    data = bytes.fromhex(content["bytes"])
    return numpy.ndarray(content["shape"], content["element"], data, order=content["order"])


_MAKERS: dict[str, Callable[..., Any]] = {
    "nil": lambda: None,
    "bool": lambda content: content,
    "int": int,
    "float": float,
    "str": lambda content: content,
    "bin": bytes.fromhex,
    "array": _members(list),
    "map": lambda pairs: {made(key): made(value) for key, value in pairs},
    "tuple": _members(tuple),
    "set": _members(set),
    "frozenset": _members(frozenset),
    "datetime": _moment(datetime),
    "date": date.fromisoformat,
    "time": _moment(time),
    "timedelta": lambda content: timedelta(microseconds=int(content)),
    "decimal": Decimal,
    "uuid": UUID,
    "dataset": _dataset,
    "ndarray": _ndarray,
}


# Frames.


def frame_of(description: dict[str, Any]) -> Any:
    """The frame that a description means; what is left out has its default."""
    fields = {name: _plain(value) for name, value in description.items() if name != "frame"}
    return msgspec.convert(_array(KINDS[description["frame"]], fields), KINDS[description["frame"]])


def _array(kind: type[msgspec.Struct], fields: dict[str, Any]) -> list[Any]:
    declared = msgspec.structs.fields(kind)
    tag = kind.__struct_config__.tag
    return [tag, *(fields.get(field.name, field_default(field)) for field in declared)]


def field_default(field: Any) -> Any:
    """A field's default."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def description_of(frame: msgspec.Struct) -> dict[str, Any]:
    """A frame's description, with every field."""
    name = type(frame).__name__.removesuffix("Frame")
    return {"frame": name, **_described(msgspec.structs.asdict(frame))}


def shared(frame: msgspec.Struct, description: dict[str, Any]) -> dict[str, Any]:
    """Of a frame's description what another one names."""
    return {name: value for name, value in description_of(frame).items() if name in description}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, list) else value


def _described(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _described(item) for key, item in value.items()}
    return list(map(_described, value)) if isinstance(value, list | tuple) else value
