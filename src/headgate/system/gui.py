"""The manual's `system.gui`: boxes that tell something; where there is no GUI, lines in the log."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from headgate.system.namespace import Namespace

__all__ = ["Gui", "errorBox", "messageBox", "warningBox"]

logger = logging.getLogger("headgate.gui")


class Gui(Namespace):
    """
    Boxes that tell something.

    There is no GUI here: each is one line in the log ``headgate.gui``, or on stderr where the
    program has no logging, and none ever raises.
    """

    _module = "gui"

    def messageBox(self, message: object, title: str = "Information") -> None:
        """Tell something."""
        _show(logging.INFO, title, message)

    def errorBox(self, message: object, title: str = "Error") -> None:
        """Tell of an error."""
        _show(logging.ERROR, title, message)

    def warningBox(self, message: object, title: str = "Warning") -> None:
        """Warn of something."""
        _show(logging.WARNING, title, message)


def _show(level: int, title: object, message: object) -> None:
    text = f"{_line(title)}: {_line(message)}"
    if logger.hasHandlers():
        logger.log(level, "%s", text)
    else:
        # A script without any logging would show nothing: its reader still wants to see the box.
        print(text, file=sys.stderr)


def _line(text: object) -> str:
    try:
        return " ".join(str(text).split())
    except Exception as problem:
        return f"(the text of a {type(text).__name__} cannot be made: {type(problem).__name__})"


_here = Gui()
errorBox = _here.errorBox
messageBox = _here.messageBox
warningBox = _here.warningBox

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return getattr(_here, name)
