"""What the process of a gateway asks of the system and of the interpreter."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
from time import monotonic

__all__ = ["Garbage", "give_memory_back", "raise_file_limit"]

logger = logging.getLogger("headgate.cli")

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


def raise_file_limit(sessions: int) -> None:
    """
    Let this process have as many open files as it may: each session is one.

    Args:
        sessions: The sessions that there may be, for a warning if the files are too few.
    """
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
    if resource.RLIM_INFINITY != most < sessions + OTHER_FILES:
        logger.warning(
            "this process may have %d open files, too few for limits.sessions = %d: raise the "
            "system's limit (ulimit -Hn, LimitNOFILE= of systemd) or lower that one",
            most,
            sessions,
        )


def give_memory_back() -> None:
    """
    Let large pieces of memory be the system's again when they are free.

    Each TLS connection has a buffer of 256 KiB, of which only what it uses takes room. After the
    first such piece is freed, glibc would cut the next ones out of memory that it keeps.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_PIECE)
