"""
What the handlers saw: one record for each begin and each end of a run, in a file that survives.

Each record is one `write` to a file that is opened for appending: what was written stays when the
gateway is killed the moment after.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "BEGUN",
    "ENDS",
    "FOLDER",
    "INNER_BEGUN",
    "INNER_FAILED",
    "INNER_MADE",
    "INNER_SUCCEEDED",
    "INTERRUPTED",
    "RAISED",
    "RETURNED",
    "Event",
    "note",
    "read",
    "running",
]

FOLDER = "HEADGATE_SOAK_JOURNAL"
"""The environment variable that names the folder of the journals."""

BEGUN, RETURNED, RAISED, INTERRUPTED = 1, 2, 3, 4
INNER_MADE, INNER_BEGUN, INNER_SUCCEEDED, INNER_FAILED = 5, 6, 7, 8

ENDS = (RETURNED, RAISED, INTERRUPTED)

_RECORD = struct.Struct("<16sdIBB")
_open: list[int] = []


class Event(NamedTuple):
    """One record."""

    request_id: str
    """The request's id, as the handler's context has it."""
    time: float
    """On the monotonic clock, which all processes of a machine share."""
    number: int
    process: int
    """Who asked: a client process, and the number of the request there."""
    event: int


def note(event: int, payload: dict[str, Any], context: Any) -> None:
    """Write one record for the request with this payload."""
    process, number = payload["id"]
    identity = bytes.fromhex(context.request_id)
    os.write(_file(), _RECORD.pack(identity, time.monotonic(), number, process, event))


@contextmanager
def running(payload: dict[str, Any], context: Any) -> Iterator[None]:
    """Write the begin and the end of a run."""
    note(BEGUN, payload, context)
    try:
        yield
    except asyncio.CancelledError:
        note(INTERRUPTED, payload, context)
        raise
    except BaseException:
        note(RAISED, payload, context)
        raise
    note(RETURNED, payload, context)


def read(folder: Path) -> Iterator[Event]:
    """Read all journals of a soak."""
    for file in sorted(folder.glob("journal-*")):
        data = file.read_bytes()
        whole = len(data) - len(data) % _RECORD.size
        for identity, *fields in _RECORD.iter_unpack(data[:whole]):
            yield Event(identity.hex(), *fields)


def _file() -> int:
    if not _open:
        path = Path(os.environ[FOLDER], f"journal-{os.getpid()}")
        # Two threads may be here at once: both descriptors append to the same file.
        _open.append(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    return _open[0]
