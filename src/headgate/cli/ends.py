"""The exit codes, and how a command ends with an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import typer

from headgate.cli.output import complain, print_document
from headgate.errors import (
    ClientNotFound,
    ConfigurationError,
    ConnectionLost,
    GatewayUnreachable,
    HandlerError,
    HandlerNotFound,
    HeadgateError,
    Overloaded,
    PermissionDenied,
    ProjectNotFound,
    RemoteProtocolError,
    RequestError,
    RequestTimeout,
)

__all__ = ["EXIT_CODES", "ExitCode", "exit_code", "fail", "reporting", "server_parts"]


class ExitCode(IntEnum):
    """What a process of ``headgate`` ends with; scripts rely on the numbers."""

    FINE = 0
    HANDLER_ERROR = 1
    USAGE = 2
    TIMEOUT = 3
    UNREACHABLE = 4
    DENIED = 5
    NOT_FOUND = 6
    OVERLOADED = 7
    CANCELLED = 130


EXIT_CODES = {
    ExitCode.FINE: "fine",
    ExitCode.HANDLER_ERROR: "the handler failed or runs on; check, reload, audit: problems",
    ExitCode.USAGE: "wrong use: an argument, a setting, a file, a taken port",
    ExitCode.TIMEOUT: "timeout",
    ExitCode.UNREACHABLE: "the gateway cannot be reached, or the connection was lost",
    ExitCode.DENIED: "permission denied",
    ExitCode.NOT_FOUND: "no such project, handler, client, run, user, token or certificate",
    ExitCode.OVERLOADED: "overloaded: a queue is full",
    ExitCode.CANCELLED: "cancelled with Ctrl-C",
}
"""What each exit code means, for ``headgate --help``."""

_CODES: dict[type[HeadgateError], ExitCode] = {
    ConfigurationError: ExitCode.USAGE,
    RequestTimeout: ExitCode.TIMEOUT,
    GatewayUnreachable: ExitCode.UNREACHABLE,
    ConnectionLost: ExitCode.UNREACHABLE,
    RemoteProtocolError: ExitCode.UNREACHABLE,
    PermissionDenied: ExitCode.DENIED,
    ProjectNotFound: ExitCode.NOT_FOUND,
    HandlerNotFound: ExitCode.NOT_FOUND,
    ClientNotFound: ExitCode.NOT_FOUND,
    Overloaded: ExitCode.OVERLOADED,
}


def exit_code(error: HeadgateError) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    return _CODES.get(type(error), ExitCode.HANDLER_ERROR)


def fail(
    error: HeadgateError, *, as_json: bool, fate: str = "", code: ExitCode | None = None
) -> NoReturn:
    """
    Say what went wrong and end the command.

    Args:
        error: What went wrong.
        as_json: As a JSON document on stdout: ``{"error": {"code", "type", "message", …}}``.
            Without it people read it on stderr.
        fate: What became of the handler, if that is known.
        code: The exit code, if it is not the error's own.
    """
    if as_json:
        print_document({"error": _fields(error, fate)})
    else:
        traceback = error.remote_traceback if isinstance(error, HandlerError) else ""
        kind = "Error" if isinstance(error, ConfigurationError) else type(error).__name__
        complain(f"{kind}: {error}", before=traceback)
        if fate:
            complain(f"The handler: {fate}.")
    raise typer.Exit(exit_code(error) if code is None else code)


@contextmanager
def reporting(*, as_json: bool = False) -> Iterator[None]:
    """End the command with `fail` if one of Headgate's errors leaves this block."""
    try:
        yield
    except HeadgateError as error:
        fail(error, as_json=as_json)


def _fields(error: HeadgateError, fate: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "code": "usage" if isinstance(error, ConfigurationError) else "error",
        "type": type(error).__name__,
        "message": str(error),
    }
    if isinstance(error, ConfigurationError):
        fields |= {"file": error.file, "line": error.line} if error.file else {}
    if isinstance(error, RequestError):
        fields |= {"code": error.code, "started": error.started, "request_id": error.request_id}
        fields |= {"details": error.details()} if error.details() else {}
    return fields | ({"fate": fate} if fate else {})


@contextmanager
def server_parts() -> Iterator[None]:
    """
    Import parts of the gateway in this block.

    Raises:
        ConfigurationError: A package that only `headgate[gateway]` brings is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "headgate":
            raise
        raise ConfigurationError(
            f"This needs the gateway's packages, and {error.name} is not installed",
            cure="Install Headgate with its extra gateway: in a checkout, pip install '.[gateway]'",
        ) from None
