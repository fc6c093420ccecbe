"""What the command line writes: one JSON document for machines, plain text for people."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from headgate.dataset import Dataset, as_document
from headgate.wire.arrays import is_array

__all__ = [
    "complain",
    "jsonable",
    "print_document",
    "print_mistakes",
    "print_problems",
    "print_table",
    "print_value",
    "value_printer",
    "waiting",
]

LONGEST_INT = 10_000
"""Bits of a whole number above which Python does not write it in decimal by itself."""


def jsonable(value: Any) -> Any:
    """
    Return what stands for a value in JSON.

    Tuples, sets and arrays become lists, a Dataset its columns and rows, dates and times ISO 8601,
    a timedelta its seconds, bytes Base64, Decimal, UUID, nan and the infinities strings, and so do
    the keys of a dict.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= LONGEST_INT else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {_key(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item) for item in value), key=str)
    if isinstance(value, Dataset):
        return jsonable(as_document(value))
    if is_array(type(value)):
        return jsonable(value.tolist())
    return _text(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    plain = jsonable(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    return repr(value)


def print_document(document: dict[str, Any]) -> None:
    """Write a JSON document on one line of stdout, at once."""
    print(json.dumps(jsonable(document), allow_nan=False), flush=True)


def print_value(value: Any) -> None:
    """Write a value to stdout as JSON that is good to read; on a terminal, a table as one."""
    if isinstance(value, Dataset) and sys.stdout.isatty():
        print_table(value.getColumnNames(), (map(_cell, row) for row in value))
        return
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False)
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.json import JSON

    Console().print(JSON(text, indent=2, ensure_ascii=False), soft_wrap=True)


def _cell(value: Any) -> str:
    plain = jsonable(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def print_table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a table to stdout; where that is no terminal, nothing is cut to fit."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 1000)
    table = Table(*names, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def print_problems(problems: Iterable[Mapping[str, Any]]) -> None:
    """Tell what is wrong with projects, by the fields of each `Problem`."""
    none = True
    for problem in problems:
        none = False
        subject = "/".join(filter(None, (problem["project"], problem["handler"])))
        place = f"{problem['file']}:{problem['line']}" if problem["line"] else problem["file"]
        print(f"\nProblem with {subject or 'the projects'}: {problem['what']}\n  at   {place}")
        if problem["cure"]:
            print(f"  cure {problem['cure']}")
        if problem["kept"]:
            whole = f"all of {problem['project']}" if problem["project"] else "everything"
            print(f"  until then {whole} serves as it was before the change")
    if none:
        print("\nNo problems.")


def print_mistakes(mistakes: Iterable[Mapping[str, Any]]) -> None:
    """Tell what is wrong with settings, by file, line, what and cure of each mistake."""
    for each in mistakes:
        place = f"{each['file']}:{each['line']}" if each["line"] else each["file"]
        print(f"\nMistake in the settings: {each['what']}")
        if place:
            print(f"  at   {place}")
        if each["cure"]:
            print(f"  cure {each['cure']}")


def complain(text: str, *, before: str = "") -> None:
    """Write an error to stderr, in red on a terminal, after what stands before it."""
    if not sys.stderr.isatty():
        print(before + text, file=sys.stderr)
        return
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    console.print(before, style="dim", end="")
    console.print(text, style="red")


def value_printer(*, as_json: bool) -> Callable[[Any], None]:
    """Return what writes each value of a stream on one line of stdout, at once; for `waiting`."""
    stdout = sys.stdout

    def show(value: Any) -> None:
        shown = jsonable({"value": value} if as_json else value)
        # On a terminal the spinner has put something before stdout that it makes room for.
        file = sys.stdout if stdout.isatty() else stdout
        print(json.dumps(shown, ensure_ascii=as_json), file=file, flush=True)

    return show


@contextmanager
def waiting(
    what: str, *, line_of: Callable[[Any], str] | None = None
) -> Iterator[Callable[[Any], None]]:
    """
    Show on stderr that something is awaited, and for how long; nothing where it is no terminal.

    Args:
        what: What is awaited.
        line_of: Writes a value for people; else it is shown as progress.

    Yields:
        A function that shows a value.
    """
    line_of = line_of or _progress
    if not sys.stderr.isatty():
        yield lambda value: print(line_of(value), file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    with Progress(
        SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True
    ) as spinner:
        spinner.add_task(what, total=None)
        yield lambda value: spinner.console.print(line_of(value))


def _progress(value: Any) -> str:
    return f"progress: {json.dumps(jsonable(value), ensure_ascii=False)}"
