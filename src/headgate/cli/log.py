"""The log of a gateway's process."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import sys
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.gateway.config import Settings

__all__ = ["Levels", "log_to_stderr"]

MOST_WAITING = 10_000
"""Log records that wait to be written, at most."""

CHATTY = ("alembic", "asyncio", "sqlalchemy", "watchfiles", "websockets")
"""Loggers of others, of which only warnings are shown."""


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


class _Hasty(QueueHandler):
    """Hands records to the thread that writes, and drops what it cannot keep up with."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the record as it is: the writer formats it, and is in this process."""
        return record
