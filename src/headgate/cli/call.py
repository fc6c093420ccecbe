"""The commands of a client: request, message, handlers and reload."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import typer

from headgate.cli.access import Access
from headgate.cli.ends import ExitCode, fail, reporting
from headgate.cli.output import (
    print_document,
    print_mistakes,
    print_problems,
    print_table,
    print_value,
    value_printer,
    waiting,
)
from headgate.client import Client
from headgate.errors import (
    CancellationException,
    ConfigurationError,
    HandlerNotFound,
    RequestError,
    RequestTimeout,
)
from headgate.request import Request
from headgate.scope import GATEWAY_PROJECT

__all__ = ["Target", "Wishes", "connected", "handlers", "message", "reload", "request"]

FATE_SECONDS = 1.0
"""Seconds to wait for the word of what became of the handler, after Ctrl-C or a timeout."""

RELOAD_SECONDS = 120.0
"""Seconds to wait for a reload: projects that block while they are loaded are given up before."""

LOOK_SECONDS = 0.05
"""Seconds between two looks at whether Ctrl-C was pressed, while waiting."""

_RELOADED = {
    "added": "added",
    "changed": "changed",
    "removed": "removed",
    "kept": "kept as before",
}
"""What became of projects in a reload: as the gateway names it, and as people read it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Who is called, and how the answer is wanted."""

    access: Access
    project: str = GATEWAY_PROJECT
    handler: str = "handlers"
    as_json: bool = False


class Wishes(TypedDict):
    """How a request is to be sent, as `headgate.scope.Scope.request` has it."""

    timeout: float | None
    remote_server: str | None
    host_name: str | None
    priority: Any
    retries: int


def request(target: Target, payload: str | None, wishes: Wishes) -> None:
    """Send a request, wait for it and show its values and its result; Ctrl-C cancels it."""
    over = threading.Event()
    show_value = value_printer(as_json=target.as_json)
    with reporting(as_json=target.as_json):
        value = _read_payload(payload)
        with connected(target) as client, waiting(f"{target.project}/{target.handler}") as show:
            with _interrupts() as pressed:
                with _usage():
                    handle = client.request(
                        target.project,
                        target.handler,
                        value,
                        **wishes,
                        on_success=lambda _: over.set(),
                        on_error=lambda _: over.set(),
                        on_progress=show,
                    )
                reader = threading.Thread(target=_read, args=(handle, show_value), daemon=True)
                reader.start()
                while not over.wait(LOOK_SECONDS) and not pressed:
                    pass
            interrupted = bool(pressed) and handle.cancel()
            reader.join()
            fate = _learn_fate(handle)
    if (error := handle.error()) is not None:
        code = ExitCode.CANCELLED if interrupted else None
        fail(error, as_json=target.as_json, fate=fate, code=code)
    if target.as_json:
        print_document({"result": handle.result()})
    elif not handle.yielded:
        print_value(handle.result())


def message(target: Target, payload: str | None, *, scope: str | None) -> None:
    """Send a message and show the report of its delivery, one line for each receiver."""
    with reporting(as_json=target.as_json):
        value = _read_payload(payload)
        with connected(target) as client, _usage():
            handle = client.message(target.project, target.handler, value, scope=scope)
            report: list[str] = handle.get()
    if target.as_json:
        print_document({"delivery": [_fields(line) for line in report]})
    else:
        print("\n".join(report or ["Nobody was addressed."]))
    raise typer.Exit(_delivered(report))


def handlers(target: Target, named: Mapping[str, str], *, schema: bool) -> None:
    """
    Show the message handlers of a gateway, or their schemas.

    Args:
        target: The gateway's own handler that tells them.
        named: The ``project`` and ``handler`` that are meant; those left out are any.
        schema: Whether to print the JSON Schemas, by project and handler, and nothing else.
    """
    with reporting(as_json=target.as_json), connected(target) as client:
        ask = partial(client.request, target.project)
        found: list[dict[str, Any]] = ask(target.handler, named).get()
        told: list[dict[str, Any]] = ask("problems").get()
        problems = [each for each in told if named.items() <= each.items()]
        if named and not found and not problems:
            raise HandlerNotFound(f"Nothing is known of {'/'.join(named.values())}")
        schemas: dict[str, dict[str, Any]] = {}
        # One project after the other: those of all might be more than an answer holds.
        for project in sorted({row["project"] for row in found}) if schema else ():
            rows = ask(target.handler, {**named, "project": project, "schema": True}).get()
            schemas[project] = {row["handler"]: row["schema"] or {} for row in rows}
    if schema:
        (print_document if target.as_json else print_value)(schemas)
        return
    if target.as_json:
        print_document({"handlers": found, "problems": problems})
        return
    columns = ("project", "handler", "threading", "runtime", "file")
    told = [{**row, "threading": "async"} if row["async"] else row for row in found]
    print_table(columns, [tuple(row[column] for column in columns) for row in told])
    if problems:
        print_problems(problems)


def reload(target: Target, *, everything: bool) -> None:
    """Let a gateway load what changed, and show what that came to."""
    with reporting(as_json=target.as_json), connected(target) as client:
        reloaded: dict[str, Any] = client.request(
            target.project, target.handler, {"everything": everything}, timeout=RELOAD_SECONDS
        ).get()
    if target.as_json:
        print_document(reloaded)
    else:
        told = [what for what in _RELOADED if reloaded[what]]
        for what in told:
            print(f"{_RELOADED[what]}: {', '.join(reloaded[what])}")
        told += _print_settings(reloaded["settings"])
        if not told and not reloaded["settings"]["mistakes"]:
            print("Nothing has changed.")
        print_problems(reloaded["problems"])
    wrong = reloaded["problems"] or reloaded["settings"]["mistakes"]
    raise typer.Exit(ExitCode.HANDLER_ERROR if wrong else ExitCode.FINE)


def _print_settings(applied: Mapping[str, Any]) -> list[str]:
    """Show what became of changed settings; returns their names."""
    for change in applied["changed"]:
        print(f"setting {change['key']}: {change['old'] or '-'} → {change['new'] or '-'}")
    for change in applied["restart"]:
        print(f"setting {change['key']}: {change['new'] or '-'} after a restart of the gateway")
    print_mistakes(applied["mistakes"])
    if applied["mistakes"]:
        print("  until then all settings stay as they were")
    return [change["key"] for change in (*applied["changed"], *applied["restart"])]


def connected(target: Target) -> Client:
    """Return a client of the gateway, as `Access.connect` does."""
    # What the client logs of a lost connection, the request's own error says too.
    logging.getLogger("headgate").addHandler(logging.NullHandler())
    return target.access.connect()


@contextmanager
def _usage() -> Iterator[None]:
    """Turn what a malformed call raises at once into an error of use."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _read_payload(text: str | None) -> Any:
    if text is None:
        return None
    try:
        if text == "-":
            return json.loads(sys.stdin.buffer.read())
        if text.startswith("@"):
            return json.loads(Path(text[1:]).read_bytes())
        return json.loads(text)
    except OSError as error:
        problem = f"The payload's file {text[1:]} cannot be read: {error.strerror or error}"
    except ValueError as error:
        problem = f"The payload is not JSON: {error}"
    raise ConfigurationError(problem, cure="""Write it as '{"number": 55}', @FILE or - for stdin""")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Take note of Ctrl-C: as an exception it could come before there is a handle to cancel."""
    pressed: list[int] = []
    # Where it is ignored it stays so; other threads than the main one never get it.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield pressed
        return
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _read(handle: Request, show: Callable[[Any], None]) -> None:
    """Show the values of a handler that yields, until the request is over."""
    try:
        with handle.stream() as values:
            for value in values:
                if handle.yielded:
                    show(value)
    except RequestError:
        pass  # the request's own end is told
    except OSError:
        handle.cancel()  # nobody reads what is shown


def _learn_fate(handle: Request) -> str:
    """What became of the handler, where that is a question."""
    if not isinstance(handle.error(), (CancellationException, RequestTimeout)):
        return ""
    try:
        return handle.wait_fate(FATE_SECONDS)
    except KeyboardInterrupt:
        return handle.fate


def _fields(line: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in line.split(",") if "=" in field)


def _delivered(report: list[str]) -> ExitCode:
    """Fine if anybody got the message, else the code for why the first one did not."""
    statuses = [_fields(line).get("sendStatus", "") for line in report]
    if "SENT" in statuses:
        return ExitCode.FINE
    return _STATUS.get(statuses[0], ExitCode.NOT_FOUND) if statuses else ExitCode.NOT_FOUND


_STATUS = {
    "NO_HANDLER": ExitCode.NOT_FOUND,
    "DENIED": ExitCode.DENIED,
    "UNREACHABLE": ExitCode.UNREACHABLE,
    "OVERLOADED": ExitCode.OVERLOADED,
}
