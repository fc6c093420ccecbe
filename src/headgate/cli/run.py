"""A gateway as a process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from headgate.cli.config import load
from headgate.cli.ends import reporting, server_parts
from headgate.cli.log import Levels, log_to_stderr
from headgate.cli.output import print_document
from headgate.cli.process import Garbage, give_memory_back, raise_file_limit
from headgate.cli.projects import chosen_projects
from headgate.projects.prints import PrintLog

if TYPE_CHECKING:
    from headgate.gateway import Gateway
    from headgate.gateway.config import Configuration
    from headgate.gateway.layers import Layer, Place

__all__ = ["run"]

logger = logging.getLogger("headgate.cli")


def run(
    file: Path | None,
    options: Mapping[str, tuple[Place, Any]],
    *,
    projects: Path | None,
    named: Mapping[str, Path],
    as_json: bool,
) -> None:
    """
    Run a gateway until SIGTERM or SIGINT.

    After the first signal requests in flight may finish; a second one ends the process at once.

    Args:
        file: The settings. Default: ``headgate.toml`` in the working folder, if it is there.
        options: Settings that win over the file's, by flag: which one, and its value or None.
        projects: A folder that holds projects, or is one.
        named: Further projects by name.
        as_json: Whether the ready line and the log are JSON.
    """
    with reporting(as_json=as_json):
        with server_parts():
            from headgate.gateway import Gateway
        configuration = load(file, _arguments(options, projects, named))
        with server_parts():
            log_to_stderr(as_json=as_json)
        levels = Levels()
        levels.set(configuration.settings)
        gateway = Gateway(
            projects=chosen_projects(
                configuration.folder_of_projects(), configuration.named_projects()
            ),
            config=configuration,
            on_settings=levels.set,
        )
        raise_file_limit(configuration.settings.limits.sessions)
        give_memory_back()
        stopped = _stop_on_signals()
        _reload_on_hangup(gateway)
        _tell_of(configuration)
        gateway.start()
    try:
        _announce(gateway, configuration, as_json=as_json)
        sys.stdout = PrintLog()
        garbage = Garbage()
        # Not without an end: on Windows a signal is seen only between two waits.
        while not stopped.acquire(timeout=0.5):
            garbage.look()
        logger.info("stopping: requests in flight may finish")
    finally:
        gateway.stop()


def _arguments(
    options: Mapping[str, tuple[Place, Any]], projects: Path | None, named: Mapping[str, Path]
) -> list[Layer]:
    """Return the settings that flags give."""
    from headgate.gateway.layers import Layer

    given = [(flag, place, value) for flag, (place, value) in options.items()]
    given.append(("--projects", ("projects",), projects))
    given += (("--project", ("project", name, "path"), path) for name, path in named.items())
    return [
        Layer.of("argument", flag, place, str(value) if isinstance(value, Path) else value)
        for flag, place, value in given
        if value is not None
    ]


def _tell_of(configuration: Configuration) -> None:
    if configuration.file is not None:
        logger.info("settings: %s", configuration.file)
    for name in configuration.strangers:
        logger.warning("the environment variable %s is no setting, and is left alone", name)


def _stop_on_signals() -> threading.Lock:
    """
    Return a lock that the first signal releases; the second one ends the process.

    An event would not do: a signal's handler that sets it may have interrupted a wait that holds
    the event's own lock.
    """
    stopped = threading.Lock()
    stopped.acquire()
    seen: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        stopped.release()

    signal.signal(signal.SIGTERM, take)
    signal.signal(signal.SIGINT, take)
    return stopped


def _reload_on_hangup(gateway: Gateway) -> None:
    """
    Let SIGHUP read settings and projects again, where there is such a signal.

    It also comes when the terminal is closed that the gateway was started on: that ends it.
    """
    if not hasattr(signal, "SIGHUP"):
        return
    on_terminal = os.isatty(0)

    def take(number: int, frame: FrameType | None) -> None:
        if on_terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        else:
            gateway.reload_soon()

    signal.signal(signal.SIGHUP, take)


def _announce(gateway: Gateway, configuration: Configuration, *, as_json: bool) -> None:
    """Say on stdout, in one line, that the gateway is ready; whoever started it waits for that."""
    if as_json:
        fields: dict[str, Any] = {"name": gateway.name, "url": gateway.url, "pid": os.getpid()}
        fields |= {"insecure": gateway.insecure} if gateway.insecure else {}
        file = None if configuration.file is None else str(configuration.file)
        fields |= {"config": file, "data": str(gateway.data)}
        print_document({**fields, "problems": len(gateway.problems)})
    else:
        warning = f" ({gateway.insecure})" if gateway.insecure else ""
        print(f"The gateway {gateway.name!r} is ready: {gateway.url}{warning}", flush=True)
