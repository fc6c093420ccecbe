"""A gateway as a process."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

from headgate.cli.config import load
from headgate.cli.ends import reporting, server_parts
from headgate.cli.output import print_document
from headgate.cli.projects import chosen_projects

if TYPE_CHECKING:
    from headgate.gateway import Gateway
    from headgate.gateway.config import Configuration, Settings
    from headgate.gateway.layers import Layer, Place

__all__ = ["run"]

logger = logging.getLogger("headgate.cli")

MOST_WAITING = 10_000
"""Log records that wait to be written, at most."""

M_MMAP_THRESHOLD = -3
"""What glibc's malloc.h calls it."""

LARGE_PIECE = 128 * 1024
"""Bytes from which on a piece of memory is large."""

OTHER_FILES = 256
"""Open files of a gateway beside its sessions, about."""

GARBAGE_SECONDS = 300.0
"""Seconds between two collections of old garbage."""

SOME_GARBAGE = 10
"""Collections of middle-aged garbage after which there may be old garbage, too."""

OLD_GARBAGE = 1000
"""The same, when it is not waited for the time: about 7 million objects came that stayed."""

CHATTY = ("alembic", "asyncio", "sqlalchemy", "watchfiles", "websockets")
"""Loggers of others, of which only warnings are shown."""


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
        _raise_file_limit(configuration.settings)
        _give_memory_back()
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


class Garbage:
    """
    Collects what the interpreter holds in cycles, with an eye on who waits meanwhile.

    To go through all objects of 10,000 sessions takes over half a second, in which nothing is
    answered; and the interpreter would do that again for each quarter that comes to them. Sessions
    and requests leave nothing to collect, only handlers do, and mostly when it is still young.
    """

    def __init__(self) -> None:
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, OLD_GARBAGE)
        self._due = monotonic() + GARBAGE_SECONDS

    def look(self) -> None:
        """Collect, if it is time and there may be something."""
        if monotonic() >= self._due:
            self._due = monotonic() + GARBAGE_SECONDS
            if gc.get_count()[2] >= SOME_GARBAGE:
                gc.collect()


class Levels:
    """The levels of loggers, as the settings want them."""

    def __init__(self) -> None:
        self._named: tuple[str, ...] = ()

    def set(self, settings: Settings) -> None:
        """Set them all; loggers that are not named any more log what all others do."""
        level = logging.getLevelNamesMapping()[settings.log.level.upper()]
        logging.root.setLevel(level)
        for name in self._named:
            logging.getLogger(name).setLevel(logging.NOTSET)
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(max(logging.WARNING, level))
        for name, wanted in settings.log.levels.items():
            logging.getLogger(name).setLevel(wanted.upper())
        self._named = tuple(settings.log.levels)


def log_to_stderr(*, as_json: bool = False) -> None:
    """Write the log to stderr: for people, or one JSON document a line."""
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=as_json),
    ]
    processors: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if as_json:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty()
        processors.append(structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=processors)
    )
    # A log that nobody reads must not hold the event loop up: a thread of its own writes it.
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
    listener = QueueListener(waiting, handler)
    listener.start()
    atexit.register(listener.stop)
    logging.basicConfig(handlers=[_Hasty(waiting)], force=True)


class PrintLog(io.TextIOBase):
    """
    Takes what scripts print, and puts it into the log ``headgate.print`` line by line.

    A gateway's own stdout is for the line that says that it is ready.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self._begun = threading.local()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Log the lines that are complete; what is left waits for the rest of its line."""
        *lines, rest = (getattr(self._begun, "line", "") + text).split("\n")
        self._begun.line = rest
        for line in lines:
            logging.getLogger("headgate.print").info("%s", line)
        return len(text)


class _Hasty(QueueHandler):
    """Hands records to the thread that writes, and drops what it cannot keep up with."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the record as it is: the writer formats it, and is in this process."""
        return record


def _raise_file_limit(settings: Settings) -> None:
    """Let this process have as many open files as it may: each session is one."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS allows less than it says.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != soft:
        logger.debug("open files: %d at most, before %d", most, soft)
    if resource.RLIM_INFINITY != most < settings.limits.sessions + OTHER_FILES:
        logger.warning(
            "this process may have %d open files, too few for limits.sessions = %d: raise the "
            "system's limit (ulimit -Hn, LimitNOFILE= of systemd) or lower that one",
            most,
            settings.limits.sessions,
        )


def _give_memory_back() -> None:
    """
    Let large pieces of memory be the system's again when they are free.

    Each TLS connection has a buffer of 256 KiB, of which only what it uses takes room. After the
    first such piece is freed, glibc would cut the next ones out of memory that it keeps.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_PIECE)


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
