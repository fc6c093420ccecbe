"""A gateway as a process."""

from __future__ import annotations

import atexit
import contextlib
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
from types import FrameType
from typing import TYPE_CHECKING, Literal

from headgate.cli.ends import reporting
from headgate.cli.output import print_document
from headgate.cli.projects import chosen_projects, server_parts

if TYPE_CHECKING:
    from headgate.gateway import Gateway

__all__ = ["run"]

logger = logging.getLogger("headgate.cli")

MOST_WAITING = 10_000
"""Log records that wait to be written, at most."""

CHATTY = ("alembic", "asyncio", "sqlalchemy", "watchfiles", "websockets")
"""Loggers of others, of which only warnings are shown."""


def run(
    name: str,
    *,
    projects: Path | None,
    named: Mapping[str, Path],
    host: str,
    port: int,
    data: Path | None,
    insecure: bool,
    reload: bool | Literal["poll"],
    log_level: str,
    as_json: bool,
) -> None:
    """
    Run a gateway until SIGTERM or SIGINT.

    After the first signal requests in flight may finish; a second one ends the process at once.
    """
    with reporting(as_json=as_json):
        with server_parts():
            from headgate.gateway import Gateway
            from headgate.gateway.config import Settings

            log_to_stderr(log_level, as_json=as_json)
        folders = chosen_projects(projects, named)
        gateway = Gateway(
            name,
            projects=folders,
            host=host,
            port=port,
            data=data,
            config=Settings(insecure=insecure),
            reload=reload,
        )
        stopped = _stop_on_signals()
        gateway.start()
    try:
        _announce(gateway, as_json=as_json)
        sys.stdout = PrintLog()
        # Not without an end: on Windows a signal is seen only between two waits.
        while not stopped.acquire(timeout=0.5):
            pass
        logger.info("stopping: requests in flight may finish")
    finally:
        gateway.stop()


def log_to_stderr(level: str, *, as_json: bool = False) -> None:
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
    logging.basicConfig(handlers=[_Hasty(waiting)], level=level.upper(), force=True)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


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


def _announce(gateway: Gateway, *, as_json: bool) -> None:
    """Say on stdout, in one line, that the gateway is ready; whoever started it waits for that."""
    if as_json:
        fields = {"name": gateway.name, "url": gateway.url, "pid": os.getpid()}
        fields |= {"insecure": gateway.insecure} if gateway.insecure else {}
        print_document({**fields, "data": str(gateway.data), "problems": len(gateway.problems)})
    else:
        warning = f" ({gateway.insecure})" if gateway.insecure else ""
        print(f"The gateway {gateway.name!r} is ready: {gateway.url}{warning}", flush=True)
