"""Where the prints of scripts go: into the log."""

from __future__ import annotations

import io
import logging
import threading

__all__ = ["PrintLog"]


MAX_LINE = 8 * 1024
"""Characters of a line that wait for its end, at most."""


class PrintLog(io.TextIOBase):
    """
    Takes what scripts print, and puts it into the log ``headgate.print`` line by line.

    A gateway's own stdout is for the line that says that it is ready, and a worker has none.
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
        if len(rest) > MAX_LINE:
            # One that never ends would be copied for every piece, and kept.
            lines.append(rest)
            rest = ""
        self._begun.line = rest
        for line in lines:
            logging.getLogger("headgate.print").info("%s", line)
        return len(text)
