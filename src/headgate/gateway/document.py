"""The configuration's JSON Schema, and its documented file with every setting."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from headgate.gateway.config import Settings
from headgate.gateway.layers import Fields, Place, dotted

__all__ = ["documented_file", "json_schema"]

WIDTH = 98


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``headgate.toml``."""
    schema = Settings.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def documented_file() -> str:
    """
    Return a ``headgate.toml`` with every setting, its meaning and its default.

    Lines with ``#`` right before the text are settings with their defaults; without the ``#`` they
    change nothing.
    """
    schema = Settings.model_json_schema()
    fields, properties = Fields(schema), schema["properties"]
    tables = [name for name in properties if _kind(fields, (name,)) in ("object", "array")]
    lines = [*_INTRODUCTION]
    for name in properties:
        if name not in tables:
            lines += _setting((name,), fields)
    for name in tables:
        lines += _table((name,), fields)
    return "\n".join(lines) + "\n"


_INTRODUCTION = [
    "# The settings of a gateway, each with its default. Take the # away to change one.",
    "#",
    "# Environment variables win over this file: HEADGATE_PORT, HEADGATE_LIMITS__IN_FLIGHT.",
    "# Flags of `headgate run` win over both. Paths are relative to this file.",
    "# (restart) takes effect when the gateway is started again, all else when the file is saved.",
]


def _kind(fields: Fields, place: Place) -> str:
    kinds = fields.kinds(place)
    return kinds.pop() if len(kinds) == 1 else ""


def _table(place: Place, fields: Fields) -> Iterator[str]:
    (node,) = fields.at(place)
    if not fields.names(place):
        yield from ("", "")
        yield from _comment(node.get("description", ""), place)
        yield from _example(place, node)
        return
    yield from ("", "", f"[{dotted(place)}]")
    for name in fields.names(place):
        yield from _setting((*place, name), fields)


def _setting(place: Place, fields: Fields) -> Iterator[str]:
    (node, *_), key = fields.at(place), str(place[-1])
    default = _default(place)
    yield ""
    yield from _comment(node.get("description", ""), place, wanted=_choices(place, fields))
    if default is None:
        yield f"# {key} = {_toml(_examples(node)[0])}"
    elif default == {}:
        yield f"# {key} = {_toml(_examples(node)[0])}"
        yield f"#{key} = {{}}"
    else:
        yield f"#{key} = {_toml(default)}"


def _default(place: Place) -> Any:
    value: Any = Settings().model_dump(mode="json")
    for key in place:
        value = value[key]
    return value


def _choices(place: Place, fields: Fields) -> str:
    wanted = fields.wanted(place)
    return f" {wanted[0].upper()}{wanted[1:]}." if '"' in wanted and "[" not in wanted else ""


def _comment(text: str, place: Place, wanted: str = "") -> Iterator[str]:
    note = "" if Settings.is_live(place) else " (restart)"
    words = " ".join(text.split()).replace("``", "`")
    for line in textwrap.wrap(words + wanted + note, WIDTH):
        yield f"# {line}"


def _example(place: Place, node: Mapping[str, Any]) -> Iterator[str]:
    """An example of a table whose names are free, or of an array of tables."""
    (example,), name = _examples(node), dotted(place)
    tables = (
        [(f"[[{name}]]", item) for item in example]
        if isinstance(example, list)
        else [(f"[{dotted((*place, key))}]", item) for key, item in example.items()]
    )
    for header, table in tables:
        yield f"# {header}"
        for key, value in table.items():
            yield f"# {key} = {_toml(value)}"


def _examples(node: Mapping[str, Any]) -> list[Any]:
    return list(node.get("examples", ["…"]))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{dotted((key,))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
