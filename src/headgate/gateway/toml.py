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


def line_of(text: str, *path: str) -> int | None:
    """
    The line where a key stands, or the header of its table; None if neither is found.

    Args:
        text: The TOML text.
        path: The key's tables and its name, from the outermost.
    """
    table: tuple[str, ...] = ()
    depth, best = 0, None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            found = table = _keys(header[1])
        elif entry := _ENTRY.match(line):
            found = table + _keys(entry[1])
        else:
            continue
        common = min(len(found), len(path))
        if common > depth and found[:common] == path[:common]:
            depth, best = common, number
    return best


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
