"""The logger of the manual's `system.util.getLogger`; what it is told goes to Python's logging."""

from __future__ import annotations

import logging

__all__ = ["TRACE", "Logger"]

TRACE = 5
"""The level below DEBUG."""

logging.addLevelName(TRACE, "TRACE")


class Logger:
    """
    Writes to the log of one name.

    The methods that end in ``f`` put their arguments into the format as ``%`` does, and only if
    the level is enabled; a format that does not fit them is reported by Python's logging.

    Args:
        name: Name of the logger in Python's logging.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __repr__(self) -> str:
        return f"<logger {self._logger.name!r}>"

    def trace(self, message: object, throwable: BaseException | None = None) -> None:
        """Log a message at level TRACE, with the traceback of an exception if there is one."""
        self._log(TRACE, message, throwable)

    def debug(self, message: object, throwable: BaseException | None = None) -> None:
        """Log a message at level DEBUG, with the traceback of an exception if there is one."""
        self._log(logging.DEBUG, message, throwable)

    def info(self, message: object, throwable: BaseException | None = None) -> None:
        """Log a message at level INFO, with the traceback of an exception if there is one."""
        self._log(logging.INFO, message, throwable)

    def warn(self, message: object, throwable: BaseException | None = None) -> None:
        """Log a message at level WARNING, with the traceback of an exception if there is one."""
        self._log(logging.WARNING, message, throwable)

    def error(self, message: object, throwable: BaseException | None = None) -> None:
        """Log a message at level ERROR, with the traceback of an exception if there is one."""
        self._log(logging.ERROR, message, throwable)

    def tracef(self, format: str, *args: object) -> None:
        """Log a format and its arguments at level TRACE."""
        self._logger.log(TRACE, format, *args, stacklevel=2)

    def debugf(self, format: str, *args: object) -> None:
        """Log a format and its arguments at level DEBUG."""
        self._logger.log(logging.DEBUG, format, *args, stacklevel=2)

    def infof(self, format: str, *args: object) -> None:
        """Log a format and its arguments at level INFO."""
        self._logger.log(logging.INFO, format, *args, stacklevel=2)

    def warnf(self, format: str, *args: object) -> None:
        """Log a format and its arguments at level WARNING."""
        self._logger.log(logging.WARNING, format, *args, stacklevel=2)

    def errorf(self, format: str, *args: object) -> None:
        """Log a format and its arguments at level ERROR."""
        self._logger.log(logging.ERROR, format, *args, stacklevel=2)

    def isTraceEnabled(self) -> bool:
        """Whether level TRACE is logged."""
        return self._logger.isEnabledFor(TRACE)

    def isDebugEnabled(self) -> bool:
        """Whether level DEBUG is logged."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def isInfoEnabled(self) -> bool:
        """Whether level INFO is logged."""
        return self._logger.isEnabledFor(logging.INFO)

    def isWarnEnabled(self) -> bool:
        """Whether level WARNING is logged."""
        return self._logger.isEnabledFor(logging.WARNING)

    def isErrorEnabled(self) -> bool:
        """Whether level ERROR is logged."""
        return self._logger.isEnabledFor(logging.ERROR)

    def _log(self, level: int, message: object, throwable: BaseException | None) -> None:
        if throwable is not None and not isinstance(throwable, BaseException):
            raise TypeError(
                f"The second argument is an exception, not {throwable!r}: for a format and its "
                "arguments there are tracef, debugf, infof, warnf and errorf"
            )
        # The place that is logged is the script's: above this and above info() and the like.
        self._logger.log(level, message, exc_info=throwable, stacklevel=3)
