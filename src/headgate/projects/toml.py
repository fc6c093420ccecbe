"""
TOML files whose mistakes are reported with their line.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from headgate.errors import ConfigurationError

__all__ = ["line_of", "parse_toml", "read_text"]

_HEADER = re.compile(r"\s*\[\[?\s*(.+?)\s*\]\]?\s*(?:#.*)?$")
_ENTRY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w\s.-])+?)\s*=""")
_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")


def read_text(file: Path) -> str:
    """
    Read a file that is UTF-8, with or without a byte order mark.

    Raises:
        ConfigurationError: It cannot be read, or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"The file cannot be read: {reason}",
            cure="Let the gateway's user read it",
            file=str(file),
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"Byte {error.start} is not UTF-8",
            cure="Save the file as UTF-8",
            file=str(file),
            line=error.object.count(b"\n", 0, error.start) + 1,
        ) from None


def parse_toml(text: str, *, file: Path) -> dict[str, Any]:
    """
    Parse a file's text.

    Raises:
        ConfigurationError: It is not TOML; with the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        number = place[1] if place else None
        raise ConfigurationError(
            f"The file is not valid TOML: {_PLACE.sub('', str(error)).rstrip('.')}",
            cure="Names with spaces or slashes, and all texts, stand in quotes",
            file=str(file),
            line=int(number) if number else text.count("\n") + 1,
        ) from None


def line_of(text: str, *path: str | int) -> int | None:
    """
    The line where a key stands, or the header of its table; None if neither is found.

    Args:
        text: The TOML text.
        path: The key's tables and its name, from the outermost; behind the name of an array of
            tables the number of one of them, from 0.
    """
    tables = _Tables()
    depth, best = 0, None
    # Not splitlines(): in TOML only these end a line.
    for number, line in enumerate(re.split("\r?\n", text), 1):
        if header := _HEADER.match(line):
            found = tables.begin(_keys(header[1]), repeated=line.lstrip().startswith("[["))
        elif entry := _ENTRY.match(line):
            found = tables.current + _keys(entry[1])
        else:
            continue
        common = min(len(found), len(path))
        if common > depth and found[:common] == path[:common]:
            depth, best = common, number
    return best


class _Tables:
    """The tables of a text, in the order of their headers."""

    def __init__(self) -> None:
        self.current: tuple[str | int, ...] = ()
        self._last: dict[tuple[str | int, ...], int] = {}
        """Arrays of tables, and the number of the last table of each."""

    def begin(self, keys: tuple[str, ...], *, repeated: bool) -> tuple[str | int, ...]:
        """Go on in the table of a header, and return its path; `repeated` as in ``[[keys]]``."""
        path: tuple[str | int, ...] = ()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            if repeated and depth == len(keys):
                self._last[path] = self._last.get(path, -1) + 1
            if path in self._last:
                path += (self._last[path],)
        self.current = path
        return path


def _keys(dotted: str) -> tuple[str, ...]:
    try:
        node: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    keys = []
    while isinstance(node, dict):
        key, node = next(iter(node.items()))
        keys.append(key)
    return tuple(keys)
