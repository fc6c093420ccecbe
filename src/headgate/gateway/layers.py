"""
Where values of settings come from: the file, environment variables, flags; what comes later wins.

Nothing here knows a setting by name: what there is, and of which kind, is read from a JSON Schema.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headgate.errors import ConfigurationError
from headgate.projects.toml import line_of, parse_toml, read_text

__all__ = [
    "PREFIX",
    "Fields",
    "Layer",
    "Origin",
    "Place",
    "dotted",
    "flatten",
    "is_secret",
    "merge",
    "own_variables",
    "read_environment",
    "read_file",
]

Place = tuple[str | int, ...]
"""Where a value stands: names of tables and of the value, numbers in arrays."""

PREFIX = "HEADGATE_"
"""What the names of environment variables begin with; two underscores stand between tables."""

OF_CLIENTS = frozenset(
    PREFIX + name
    for name in (
        *("HOME", "URL", "CA", "USER"),
        *("PASSWORD", "PASSWORD_FILE", "TOKEN", "TOKEN_FILE"),
    )
)
"""Variables that are no settings of a gateway."""

NEAR = 0.7
"""How like a setting's the name of a variable must be to be taken for a mistake in writing it."""

_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_SECRET = re.compile(r"(password|passwd|secret|token|credential)(?!.*_file$)", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Origin:
    """Where a value comes from."""

    kind: Literal["default", "file", "environment", "argument"] = "default"
    name: str = ""
    """The file's path, or the name of the variable or the argument."""
    line: int | None = None
    """The line in the file."""

    def __str__(self) -> str:
        place = f"{self.name}:{self.line}" if self.line else self.name
        return place or self.kind


@dataclass(frozen=True)
class Layer:
    """Values that come from one file, one variable or one argument."""

    kind: Literal["file", "environment", "argument"]
    name: str
    """The file's path, or the name of the variable or the argument."""
    values: Mapping[str, Any] = field(repr=False)
    text: str = field(default="", repr=False)
    """The file's text, for line numbers."""

    @staticmethod
    def of(kind: Literal["environment", "argument"], name: str, place: Place, value: Any) -> Layer:
        """Return the layer of a single value."""
        for key in reversed(place):
            value = {key: value}
        return Layer(kind, name, value)

    def origin(self, place: Place) -> Origin:
        """Return where exactly a value of this layer comes from."""
        line = line_of(self.text, *place) if self.kind == "file" else None
        return Origin(self.kind, self.name, line)


class Fields:
    """
    The settings that there are, by place.

    Args:
        schema: Their JSON Schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    def at(self, place: Iterable[str | int]) -> list[Mapping[str, Any]]:
        """Return the schemas that a value may follow, but for null; none if there is no setting."""
        nodes = self._resolve(self._schema)
        for key in place:
            inner = [below for node in nodes if (below := _below(node, key)) is not None]
            nodes = [resolved for node in inner for resolved in self._resolve(node)]
        return nodes

    def names(self, place: Place = ()) -> list[str]:
        """Return the names that a table may have; none where they are free, or in no table."""
        return [name for node in self.at(place) for name in node.get("properties", ())]

    def kinds(self, place: Place) -> set[str]:
        """Return the JSON types that a value may have."""
        return {str(node.get("type", "string")) for node in self.at(place)}

    def is_path(self, place: Place) -> bool:
        """Whether a value is the path of a file or folder."""
        return any(node.get("format") == "path" for node in self.at(place))

    def wanted(self, place: Place) -> str:
        """Return in words what a value may be."""
        return " or ".join(dict.fromkeys(_in_words(node) for node in self.at(place)))

    def variables(self) -> Iterator[str]:
        """Return the names of the environment variables of all settings whose names are known."""
        for name in self.names():
            below = self.names((name,))
            if not below:
                yield f"{PREFIX}{name}".upper()
            for inner in below:
                yield f"{PREFIX}{name}__{inner}".upper()

    def place_of(self, variable: str) -> Place | None:
        """Return which setting an environment variable means, None if there is none."""
        place: Place = ()
        for part in variable.removeprefix(PREFIX).split("__"):
            # Names of settings are known; those of zones, projects and so on as they are written.
            name = part.lower() if self.names(place) else part
            place += (name,)
            if not self.at(place):
                return None
        return place

    def _resolve(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        if "$ref" in node:
            target = self._schema["$defs"][node["$ref"].rpartition("/")[2]]
            return self._resolve(dict(target) | _without(node, "$ref"))
        if "anyOf" in node:
            own = _without(node, "anyOf")
            return [found for each in node["anyOf"] for found in self._resolve(own | each)]
        return [] if node.get("type") == "null" else [node]


def _without(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != key}


def _below(node: Mapping[str, Any], key: str | int) -> Mapping[str, Any] | None:
    """Return the schema of a value in a table or an array, None if it can have none there."""
    found = node.get("items") if isinstance(key, int) else node.get("properties", {}).get(key)
    if found is None and isinstance(key, str):
        found = node.get("additionalProperties")
    return found if isinstance(found, Mapping) else None


def _in_words(node: Mapping[str, Any]) -> str:
    choices = node.get("enum") or ([node["const"]] if "const" in node else [])
    if choices:
        return " or ".join(f'"{choice}"' for choice in choices)
    kind = node.get("type", "string")
    if kind == "array" and node["items"].get("type", "object") == "object":
        return "an array of tables"
    if kind == "string" and node.get("format") == "path":
        return "a path in quotes"
    least = f" from {node['minimum']:g}" if "minimum" in node else ""
    above = f" above {node['exclusiveMinimum']:g}" if "exclusiveMinimum" in node else ""
    most = f" to {node['maximum']:g}" if "maximum" in node else ""
    return _KINDS[kind] + least + above + most


_KINDS = {
    "array": 'an array, such as ["…"]',
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a table",
    "string": "a text in quotes",
}


# --- reading ---------------------------------------------------------------------------------


def read_file(file: Path, fields: Fields) -> Layer:
    """
    Read a file; paths in it are relative to its folder.

    Raises:
        ConfigurationError: It cannot be read, or is not TOML.
    """
    text = read_text(file)
    values = _absolute(parse_toml(text, file=file), (), fields=fields, folder=file.parent)
    return Layer("file", str(file), values, text)


def own_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may be settings; one that is empty is as good as none."""
    return {
        name: text
        for name, text in environment.items()
        if name.startswith(PREFIX) and text and name not in OF_CLIENTS
    }


def read_environment(
    environment: Mapping[str, str], fields: Fields
) -> tuple[list[Layer], list[ConfigurationError], list[str]]:
    """
    Read environment variables that `own_variables` gave.

    Returns:
        Their layers; mistakes, such as a name that is almost a setting's; and the names of
        variables that only look as if they were meant.
    """
    layers, mistakes, strangers = [], [], []
    # One of a whole table stands before those of single values in it.
    for name in sorted(environment, key=lambda name: (name.count("__"), name)):
        place = fields.place_of(name)
        if place is None:
            cure = _meant(name, fields)
            if cure:
                mistakes.append(ConfigurationError(f"{name} is no setting", cure=cure))
            else:
                strangers.append(name)
            continue
        try:
            value = _parsed(environment[name], fields.kinds(place))
        except ValueError:
            cure = f"Write {fields.wanted(place)}, as JSON"
            mistakes.append(ConfigurationError(f"{name} is not JSON", cure=cure))
            continue
        value = _absolute(value, place, fields=fields, folder=Path.cwd())
        layers.append(Layer.of("environment", name, place, value))
    return layers, mistakes, strangers


def _meant(variable: str, fields: Fields) -> str:
    """Return the cure if a variable is probably a mistyped setting, empty if it is a stranger."""
    known = list(fields.variables())
    bare = {name.removeprefix(PREFIX): name for name in known}
    near = difflib.get_close_matches(variable.removeprefix(PREFIX).upper(), bare, 1, NEAR)
    if near:
        return f"Did you mean {bare[near[0]]}?"
    section = variable.partition("__")[0].upper() + "__"
    inside = [name for name in known if name.startswith(section)]
    return f"Known: {', '.join(inside)}" if inside else ""


def _parsed(text: str, kinds: set[str]) -> Any:
    """Read the text of a variable as a value of one of these JSON types, or leave it a text."""
    if "boolean" in kinds and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kinds & {"array", "object"}:
        return json.loads(text)
    for kind, convert in (("integer", int), ("number", float)):
        if kind in kinds:
            try:
                return convert(text)
            except ValueError:
                return text
    return text


def _absolute(value: Any, place: Place, *, fields: Fields, folder: Path) -> Any:
    """Return a value, or a table of values, with all paths in it absolute."""
    if isinstance(value, Mapping):
        return {
            key: _absolute(inner, (*place, key), fields=fields, folder=folder)
            for key, inner in value.items()
        }
    if isinstance(value, str) and fields.is_path(place):
        return str(folder.absolute() / value)
    return value


# --- merging ---------------------------------------------------------------------------------


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[Place, Layer]]:
    """Merge layers table by table: the values, and by place the layer that each is from."""
    values: dict[str, Any] = {}
    owners: dict[Place, Layer] = {}
    for layer in layers:
        _merge_into(values, layer.values, (), layer, owners)
    return values, owners


def _merge_into(
    target: dict[str, Any],
    source: Mapping[str, Any],
    place: Place,
    layer: Layer,
    owners: dict[Place, Layer],
) -> None:
    for key, value in source.items():
        here = (*place, key)
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge_into(target[key], value, here, layer, owners)
            continue
        for replaced in [each for each in owners if each[: len(here)] == here]:
            del owners[replaced]
        if isinstance(value, Mapping) and value:
            target[key] = {}
            _merge_into(target[key], value, here, layer, owners)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value
            owners[here] = layer


def flatten(values: Mapping[str, Any], place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield the values of a table and those below it; tables that are empty or in an array, too."""
    for key, value in values.items():
        here = (*place, key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, here)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from (((*here, number), item) for number, item in enumerate(value))
        else:
            yield here, value


def dotted(place: Place) -> str:
    """Return a place as people write it, such as ``permission[0].users``."""
    text = ""
    for key in place:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key}" if _BARE.fullmatch(key) else f".{json.dumps(key)}"
    return text.removeprefix(".")


def is_secret(place: Place) -> bool:
    """Whether the name of a value says that it must not be shown."""
    return any(isinstance(key, str) and _SECRET.search(key) for key in place)
