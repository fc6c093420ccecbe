"""What scripts log and print in a worker: it goes to the gateway's log, in bounds."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from time import monotonic
from typing import TYPE_CHECKING

from headgate.invocation import current_invocation
from headgate.projects.prints import PrintLog
from headgate.runtimes.link import Logged

if TYPE_CHECKING:
    from headgate.worker.speaking import Link

__all__ = ["LinkLog", "log_to"]

BURST = 1000
"""Lines that a worker may log at once."""

RATE = 200.0
"""Lines a second that it may log after that."""

MAX_TEXT = 16 * 1024
"""Characters of a message, and of a traceback, that are logged."""

CHATTY = ("asyncio",)
"""Loggers of others, of which only warnings are shown."""


class LinkLog(logging.Handler):
    """
    Sends records to the gateway, as many as `RATE` and `BURST` allow.

    What is more is counted, and one line tells how many were left out: a handler that logs without
    an end must not fill the gateway's log, nor keep the gateway busy with it.

    Args:
        link: The way to the gateway.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._tokens = float(BURST)
        self._since = monotonic()
        self._left_out = 0
        self._who = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or count it."""
        if self._link.is_dead:
            # A child of the worker has what it inherited: stderr.
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        running = current_invocation.get()
        if not self._take():
            self._left_out += 1
            self._who = running.target if running is not None else "a thread beside its handlers"
            return
        try:
            message, text = _text(record.getMessage()), self._traceback(record)
            self._link.send_within(
                running,
                lambda number: Logged(record.name, record.levelno, message, number, text),
            )
        except Exception:
            self.handleError(record)

    def look(self) -> None:
        """Tell how many lines were left out since the last look, if some were."""
        with self.lock or contextlib.nullcontext():
            count, self._left_out = self._left_out, 0
        if count:
            text = (
                f"{count} lines of the worker process {os.getpid()} were left out, the last one of "
                f"{self._who}: it may log {BURST} at once, and {RATE:g} a second"
            )
            self._link.send(Logged("headgate.worker", logging.WARNING, text))

    def _take(self) -> bool:
        now = monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._since) * RATE)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @staticmethod
    def _traceback(record: logging.LogRecord) -> str:
        parts = []
        if record.exc_info:
            parts.append(logging.Formatter().formatException(record.exc_info))
        if record.stack_info:
            parts.append(record.stack_info)
        return _text("\n".join(parts), from_end=True)


def log_to(link: Link) -> LinkLog:
    """Send what is logged and printed in this process to the gateway."""
    log = LinkLog(link)
    logging.basicConfig(handlers=[log], force=True, level=logging.INFO)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.stdout = PrintLog()
    return log


def _text(text: str, *, from_end: bool = False) -> str:
    """Return a text as it can be sent: not too long, and Unicode."""
    if len(text) > MAX_TEXT:
        text = f"…{text[-MAX_TEXT:]}" if from_end else f"{text[:MAX_TEXT]}…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
