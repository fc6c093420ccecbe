"""config: what settings there are, and which ones a gateway would have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headgate.channel.local import SETTINGS_FILE
from headgate.cli.access import Access
from headgate.cli.ends import ExitCode, reporting, server_parts
from headgate.cli.output import print_document, print_mistakes, print_table
from headgate.errors import ConfigurationError

if TYPE_CHECKING:
    from headgate.gateway.config import Configuration
    from headgate.gateway.layers import Layer

__all__ = [
    "check",
    "chosen_file",
    "example",
    "load",
    "schema",
    "show",
    "show_running",
]


def chosen_file(file: Path | None) -> Path | None:
    """Return the file that is meant: without one, that of the working folder if it is there."""
    usual = Path(SETTINGS_FILE)
    return usual if file is None and usual.is_file() else file


def load(file: Path | None, arguments: Iterable[Layer] = ()) -> Configuration:
    """
    Read settings as a gateway that is started here does.

    Raises:
        ConfigurationError: Something is wrong with them.
    """
    with server_parts():
        from headgate.gateway.config import Configuration
    return Configuration.load(chosen_file(file), environment=os.environ, arguments=arguments)


def show(file: Path | None, *, origins: bool, as_json: bool) -> None:
    """Show all settings, and where they come from."""
    with reporting(as_json=as_json):
        configuration = load(file)
        from headgate.gateway.layers import dotted, is_secret
    rows = []
    for place, value in configuration.settings.flat().items():
        origin = configuration.origin(place)
        shown = "…" if is_secret(place) else value
        rows.append((dotted(place), shown, origin))
    if as_json:
        fields = [
            {"key": key, "value": value, "origin": origin.name or origin.kind, "line": origin.line}
            for key, value, origin in rows
        ]
        print_document({"file": _name(configuration.file), "settings": fields})
        return
    names = ("setting", "value", "origin")[: 3 if origins else 2]
    print_table(
        names, [(key, _text(value), str(origin))[: len(names)] for key, value, origin in rows]
    )


def show_running(url: str, *, as_json: bool) -> None:
    """Show the settings that are in force on a running gateway."""
    from headgate.cli.call import Target, connected

    target = Target(access=Access.from_environment(url), handler="settings", as_json=as_json)
    with reporting(as_json=as_json), connected(target) as client:
        values: dict[str, Any] = client.request(target.project, target.handler).get()
    if as_json:
        fields = [{"key": key, "value": value} for key, value in values.items()]
        print_document({"settings": fields})
    else:
        print_table(("setting", "value"), [(key, _text(value)) for key, value in values.items()])


def check(file: Path | None, *, as_json: bool) -> None:
    """Tell all mistakes that there are in settings."""
    mistakes: tuple[ConfigurationError, ...] = ()
    unknown: tuple[str, ...] = ()
    with reporting(as_json=as_json):
        file = chosen_file(file)
    try:
        unknown = load(file).strangers
    except ConfigurationError as error:
        mistakes = error.all()
    fields = [
        {"file": each.file, "line": each.line, "what": each.problem, "cure": each.cure}
        for each in mistakes
    ]
    if as_json:
        print_document({"file": _name(file), "mistakes": fields, "unknown": list(unknown)})
    else:
        print_mistakes(fields)
        for name in unknown:
            print(f"No setting, and left alone: {name}")
        if not mistakes:
            print(f"No mistakes in {file or 'the environment; there is no file'}.")
    raise typer.Exit(ExitCode.HANDLER_ERROR if mistakes else ExitCode.FINE)


def schema() -> None:
    """Print the JSON Schema of the file."""
    with reporting(), server_parts():
        from headgate.gateway.document import json_schema
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def example() -> None:
    """Print a file with every setting."""
    with reporting(), server_parts():
        from headgate.gateway.document import documented_file
    print(documented_file(), end="")


def _name(file: Path | None) -> str | None:
    return None if file is None else str(file.absolute())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
